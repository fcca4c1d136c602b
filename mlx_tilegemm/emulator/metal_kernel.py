"""A drop-in for ``mx.fast.metal_kernel`` that runs on the CPU."""

from __future__ import annotations

import ctypes
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..core.tracing import is_traced, keeping_graphs
from ..errors import EmulatorError, KernelCompileError
from ..msl.mlx_text import TracedCall, trace_call
from .arguments import Buffer, Dispatch
from .counters import Counters
from .launch import LoadedKernel
from .run import build_settings, load_text
from .settings import Settings, current_settings

Array = npt.NDArray[np.generic]
Scalar = bool | int | float

# Kept, so that tests may put `metal_kernel` in its place.
_mlx_metal_kernel = mx.fast.metal_kernel

_PRELUDE = "msl/prelude_mlx.h"
_TRACES = 1024

_NUMPY_TYPES: Mapping[mx.Dtype, npt.DTypeLike] = {
    mx.bool_: np.bool_,
    mx.uint8: np.uint8,
    mx.uint16: np.uint16,
    mx.uint32: np.uint32,
    mx.uint64: np.uint64,
    mx.int8: np.int8,
    mx.int16: np.int16,
    mx.int32: np.int32,
    mx.int64: np.int64,
    mx.float16: np.float16,
    mx.float32: np.float32,
    mx.complex64: np.complex64,
    # NumPy has no bfloat16; its bits will do.
    mx.bfloat16: np.uint16,
}


class EmulatedKernel:
    """A kernel from :func:`metal_kernel`; called like the kernels of ``mx.fast.metal_kernel``."""

    def __init__(
        self,
        kernel: Any,  # noqa: ANN401 (MLX names no type)
        name: str,
        checks: str | None,
    ) -> None:
        self._kernel = kernel
        self._name = name
        self._checks = checks
        self._traces: OrderedDict[tuple[object, ...], TracedCall] = OrderedDict()
        self._last_counters: Counters | None = None

    @property
    def last_counters(self) -> Counters | None:
        """Counts of the latest call, None before the first one."""
        return self._last_counters

    def __call__(
        self,
        *,
        inputs: Sequence[mx.array | Scalar],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Sequence[tuple[str, bool | int | mx.Dtype]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,  # noqa: ANN401 (as in MLX)
    ) -> list[mx.array]:
        """Runs the kernel and returns its outputs, evaluated.

        Args:
            inputs: Arrays or scalars.
            output_shapes: Shapes of the outputs.
            output_dtypes: Dtypes of the outputs.
            grid: Threads in x, y and z.
            threadgroup: Threads of a threadgroup in x, y and z.
            template: Template arguments by name.
            init_value: What outputs hold before the kernel runs; by default it must fill them.
            verbose: Prints the generated text.
            stream: Only checked.

        Raises:
            KernelCheckError: The kernel broke a rule.
            KernelCompileError: The kernel does not compile.
            ValueError: MLX refuses the call.
        """
        call = {
            "inputs": inputs,
            "output_shapes": output_shapes,
            "output_dtypes": output_dtypes,
            "grid": grid,
            "threadgroup": threadgroup,
            "template": template,
            "init_value": init_value,
            "verbose": verbose,
            "stream": None if _is_default(stream) else stream,
        }
        arrays = [value for value in inputs if isinstance(value, mx.array)]

        def run() -> list[mx.array]:
            _evaluate(arrays)
            return _without_derivatives(lambda: self._outputs(call), arrays)

        return keeping_graphs(run) if is_traced() else run()

    def _outputs(self, call: dict[str, Any]) -> list[mx.array]:
        """Runs what MLX makes of a call."""
        traced = self._trace(call)
        _check_name(self._name)
        inputs, output_dtypes = call["inputs"], call["output_dtypes"]
        settings = self._settings()
        loaded = load_text(traced.text, prelude=_PRELUDE, settings=build_settings(settings))
        outputs = [
            _output_buffer(tuple(shape), dtype, call["init_value"])
            for shape, dtype in zip(call["output_shapes"], output_dtypes, strict=True)
        ]
        self._launch(loaded, traced, inputs, outputs, settings)
        return [
            _to_mlx(buffer.data, dtype)
            for buffer, dtype in zip(outputs, output_dtypes, strict=True)
        ]

    def _settings(self) -> Settings:
        settings = current_settings()
        return settings if self._checks is None else replace(settings, checks=self._checks)

    def _trace(self, call: dict[str, Any]) -> TracedCall:
        try:
            key = _call_key(call)
            traced = self._traces.get(key)
        except (TypeError, ValueError):
            # Arguments of the wrong form: MLX has the words for it.
            return trace_call(self._kernel, call)
        if traced is None or call["verbose"]:
            traced = trace_call(self._kernel, call)
            self._traces[key] = traced
            if len(self._traces) > _TRACES:
                self._traces.popitem(last=False)
        return traced

    def _launch(
        self,
        loaded: LoadedKernel,
        traced: TracedCall,
        inputs: Sequence[mx.array | Scalar],
        outputs: Sequence[Buffer],
        settings: Settings,
    ) -> None:
        buffers: list[Buffer] = []
        for value, info in zip(inputs, traced.shape_info, strict=True):
            buffers += _input_buffers(value, info, traced.ensure_row_contiguous)
        buffers += outputs
        dispatch = Dispatch(grid=traced.grid, threadgroup=traced.threadgroup)
        self._last_counters = loaded.launch(dict(enumerate(buffers)), dispatch, settings)


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    compile_options: Mapping[str, str] | None = None,
    *,
    checks: str | None = None,
) -> EmulatedKernel:
    """A custom Metal kernel that runs on the CPU, with checks.

    Takes what ``mx.fast.metal_kernel`` takes and compiles the very text that MLX makes of it.

    Args:
        name: Name of the kernel.
        input_names: Names of the inputs in ``source``.
        output_names: Names of the outputs in ``source``.
        source: The body of the kernel.
        header: Text before the kernel.
        ensure_row_contiguous: Whether inputs are copied unless they are row-contiguous.
        atomic_outputs: Whether outputs are ``device atomic<T>*``.
        compile_options: As in MLX; they change nothing here.
        checks: ``"strict"`` or ``"off"``, over the settings in force.

    Returns:
        A callable with the signature of MLX's kernels. It evaluates eagerly.

    Example:
        >>> twice = metal_kernel(
        ...     "twice", ["x"], ["y"],
        ...     "uint i = thread_position_in_grid.x; y[i] = 2 * x[i];",
        ... )
        >>> x = mx.arange(4)
        >>> twice(inputs=[x], output_shapes=[x.shape], output_dtypes=[x.dtype],
        ...       grid=(4, 1, 1), threadgroup=(4, 1, 1))[0].tolist()
        [0, 2, 4, 6]
    """
    options = {} if compile_options is None else {"compile_options": dict(compile_options)}
    kernel = _mlx_metal_kernel(
        name=name,
        input_names=list(input_names),
        output_names=list(output_names),
        source=source,
        header=header,
        ensure_row_contiguous=ensure_row_contiguous,
        atomic_outputs=atomic_outputs,
        **options,
    )
    return EmulatedKernel(kernel, name, checks)


def _check_name(name: str) -> None:
    """MLX writes the name into the text as it is, and Metal's compiler meets it at the call."""
    if not re.fullmatch(r"\w*", name, re.ASCII):
        raise KernelCompileError(
            "[metal_kernel] Expected a name of ASCII letters, digits and underscores, as it "
            f"becomes a part of the kernel's, got {name!r}."
        )


def _is_default(stream: Any) -> bool:  # noqa: ANN401 (as in MLX)
    """Whether a stream is the default one, which is of the GPU wherever MLX has one."""
    return isinstance(stream, mx.Stream) and stream == mx.default_stream(mx.default_device())


def _evaluate(arrays: Sequence[mx.array]) -> None:
    try:
        mx.eval(arrays)
    except ValueError as error:
        if "transformations" not in str(error):
            raise
        raise EmulatorError(
            "[emulator] Expected arrays with values, got those of mx.compile or mx.vmap: "
            "the emulator runs a kernel when it is called. mx.disable_compile() lets it."
        ) from error


def _without_derivatives(
    run: Callable[[], list[mx.array]], arrays: Sequence[mx.array]
) -> list[mx.array]:
    """Runs, and lets derivatives of the outputs fail as those of MLX's custom kernels do."""

    def refused(what: str) -> Callable[..., Any]:
        def refuse(*_: object) -> None:
            raise ValueError(f"[Primitive::{what}] Not implemented for CustomKernel.")

        return refuse

    if not arrays:
        return run()
    function = mx.custom_function(lambda *_: run())
    function.vjp(refused("vjp"))
    function.jvp(refused("jvp"))
    outputs = cast(list[mx.array], function(*arrays))
    mx.eval(outputs)
    return outputs


def _call_key(call: dict[str, Any]) -> tuple[object, ...]:
    """The parts of a call that its generated text, geometry and MLX's own checks depend on."""
    inputs = tuple(
        (value.shape, value.dtype)
        if isinstance(value, mx.array)
        else (type(value), isinstance(value, int) and not -(2**31) <= value < 2**31)
        for value in call["inputs"]
    )
    shapes = tuple(tuple(shape) for shape in call["output_shapes"])
    template = tuple((key, type(value), value) for key, value in call["template"] or ())
    return (
        inputs,
        shapes,
        tuple(call["output_dtypes"]),
        tuple(call["grid"]),
        tuple(call["threadgroup"]),
        template,
        type(call["init_value"]),
        str(call["stream"]),
    )


def _input_buffers(
    value: mx.array | Scalar, info: tuple[bool, bool, bool], contiguous: bool
) -> list[Buffer]:
    """The buffer of an input, then its shape, strides and rank as far as the kernel takes them."""
    array = value if isinstance(value, mx.array) else mx.array(value)
    if contiguous:
        array = mx.contiguous(array)
    view = _to_numpy(array)
    buffers = [_strided_buffer(view)]
    if info[0]:
        buffers.append(_read_only(np.array(view.shape, np.int32)))
    if info[1]:
        strides = [stride // view.itemsize for stride in view.strides]
        buffers.append(_read_only(np.array(strides, np.int64)))
    if info[2]:
        buffers.append(_read_only(np.array(view.ndim, np.int32)))
    return buffers


def _read_only(data: Array) -> Buffer:
    return Buffer(data=data, read_only=True)


def _to_numpy(array: mx.array) -> Array:
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    mx.eval(array)
    return np.array(array, copy=False)


def _strided_buffer(view: Array) -> Buffer:
    """The memory between the first and the last element of a view, in address order."""
    if view.flags.c_contiguous:
        return _read_only(view)
    address = view.ctypes.data
    low = address + sum(
        min(0, stride * (size - 1)) for size, stride in zip(view.shape, view.strides, strict=True)
    )
    high = (
        address
        + view.itemsize
        + sum(
            max(0, stride * (size - 1))
            for size, stride in zip(view.shape, view.strides, strict=True)
        )
    )
    span = np.frombuffer((ctypes.c_uint8 * (high - low)).from_address(low), np.uint8).copy()
    return Buffer(data=span, read_only=True, start=address - low)


def _output_buffer(shape: tuple[int, ...], dtype: mx.Dtype, init_value: float | None) -> Buffer:
    if init_value is None:
        return Buffer(data=np.empty(shape, _NUMPY_TYPES[dtype]), initialized=False)
    filled = _to_numpy(mx.full(shape, mx.array(init_value, dtype)))
    return Buffer(data=np.array(filled))


def _to_mlx(data: Array, dtype: mx.Dtype) -> mx.array:
    array = mx.array(data)
    return array.view(mx.bfloat16) if dtype == mx.bfloat16 else array
