"""Our own idea of the text MLX makes of a kernel, to be compared with MLX's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from typing import Any

import mlx.core as mx

from ..core.dtypes import mlx_name
from ..core.plan import CONSTANT_BINDING_LIMIT, Extent, Launch, Source
from ..core.shapes import Shape
from ..msl.mlx_text import trace_call
from .finding import Finding
from .lint import ATTRIBUTES, SHAPE_SUFFIXES

_TYPES = {
    "float32": "float",
    "float16": "float16_t",
    "bfloat16": "bfloat16_t",
    "complex64": "complex64_t",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_SHAPE_TYPES = {"_shape": "int*", "_strides": "int64_t*", "_ndim": "int&"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One array as MLX binds it.

    Attributes:
        shape: Its shape; a Python scalar has none of its own and counts as ``()``.
        dtype: MLX's name of its element type.
    """

    shape: Shape
    dtype: str

    @property
    def metal(self) -> str:
        """Name of the element type in the signature."""
        return _TYPES[self.dtype]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def suffix(self) -> str:
        """The suffix that it adds to the kernel's name."""
        if not self.shape:
            return f"_{self.metal}s"
        return f"_{self.metal}c" if self.size < CONSTANT_BINDING_LIMIT else f"_{self.metal}"

    def parameter(self, name: str) -> str:
        """Return the parameter that an input of that name becomes."""
        if not self.shape:
            return f"const constant {self.metal}& {name}"
        space = "constant" if self.size < CONSTANT_BINDING_LIMIT else "device"
        return f"const {space} {self.metal}* {name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """The text that MLX made of a call.

    Attributes:
        name: The kernel's full name.
        text: The complete text behind MLX's prelude.
        grid: Threads in each dimension.
        threadgroup: Threads of a threadgroup in each dimension.
        outputs: The arrays it returns.
    """

    name: str
    text: str
    grid: Extent
    threadgroup: Extent
    outputs: tuple[Argument, ...]


def argument(array: mx.array) -> Argument:
    """Describe an array."""
    return Argument(shape=tuple(array.shape), dtype=mlx_name(array.dtype))


def trace(kernel: Callable[..., Sequence[mx.array]], arguments: dict[str, Any]) -> Traced:
    """Return what MLX makes of one call of an ``mx.fast.metal_kernel`` object, without running it.

    Args:
        kernel: The object.
        arguments: Keyword arguments of the call.
    """
    returned: list[tuple[Argument, ...]] = []

    def call(**given: Any) -> Sequence[mx.array]:  # noqa: ANN401 - passed on as they come
        arrays = kernel(**given)
        returned.append(tuple(argument(array) for array in arrays))
        return arrays

    traced = trace_call(call, arguments)
    return Traced(
        name=traced.name,
        text=traced.text,
        grid=traced.grid,
        threadgroup=traced.threadgroup,
        outputs=returned[-1],
    )


def expected_name(source: Source, inputs: Sequence[Argument], outputs: Sequence[Argument]) -> str:
    """Return the name MLX gives a kernel."""
    ends = [one.suffix for one in inputs] + [f"_{one.metal}" for one in outputs]
    return f"custom_kernel_{source.name}{''.join(ends)}"


def expected_text(source: Source, inputs: Sequence[Argument], outputs: Sequence[Argument]) -> str:
    """Return the text MLX makes of a kernel without template arguments.

    Args:
        source: The kernel.
        inputs: Its inputs, in order.
        outputs: Its outputs, in order.
    """
    buffers = [*_input_parameters(source, inputs), *_output_parameters(source, outputs)]
    numbered = [f"{text} [[buffer({index})]]" for index, text in enumerate(buffers)]
    attributes = [f"{kind} {n} [[{n}]]" for n, kind in ATTRIBUTES.items() if n in source.body]
    parameters = ",\n  ".join(numbered + attributes)
    name = expected_name(source, inputs, outputs)
    return f"{source.header}[[kernel]] void {name}(\n  {parameters}) {{\n{source.body}\n}}\n\n"


def _input_parameters(source: Source, inputs: Sequence[Argument]) -> Iterator[str]:
    for name, one in zip(source.input_names, inputs, strict=True):
        yield one.parameter(name)
        for suffix in SHAPE_SUFFIXES:
            if one.shape and name + suffix in source.body:
                yield f"const constant {_SHAPE_TYPES[suffix]} {name}{suffix}"


def _output_parameters(source: Source, outputs: Sequence[Argument]) -> Iterator[str]:
    for name, one in zip(source.output_names, outputs, strict=True):
        yield f"device {one.metal}* {name}"


def compare(
    source: Source,
    launch: Launch,
    inputs: Sequence[Argument],
    traced: Traced,
) -> tuple[Finding, ...]:
    """Compare MLX's text and launch with ours.

    Args:
        source: The kernel as rendered.
        launch: How the plan launches it.
        inputs: The inputs that were passed.
        traced: What MLX made of the call.
    """
    outputs = [
        Argument(shape=shape, dtype=dtype.name)
        for shape, dtype in zip(launch.output_shapes, launch.output_dtypes, strict=True)
    ]
    pairs = (
        ("name", expected_name(source, inputs, outputs), traced.name),
        ("grid", launch.grid, traced.grid),
        ("threadgroup", launch.threadgroup, traced.threadgroup),
        ("outputs", tuple(outputs), traced.outputs),
        *_differing_lines(expected_text(source, inputs, outputs), traced.text),
    )
    return tuple(
        Finding(
            file=source.name,
            line=0,
            column=0,
            rule="signature",
            message=f"{what}: ours is {ours!r}, MLX's is {theirs!r}",
        )
        for what, ours, theirs in pairs
        if ours != theirs
    )


def _differing_lines(ours: str, theirs: str) -> Iterator[tuple[str, str, str]]:
    lines = zip_longest(ours.split("\n"), theirs.split("\n"), fillvalue="")
    for number, (mine, other) in enumerate(lines, start=1):
        if mine != other:
            yield f"line {number}", mine, other
            return
