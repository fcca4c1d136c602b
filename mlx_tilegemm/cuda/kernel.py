"""A stand-in for ``mx.fast.metal_kernel`` that runs on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple, cast

import mlx.core as mx

from ..core.plan import CONSTANT_BINDING_LIMIT
from ..errors import BackendError, ProblemError
from ..msl.mlx_text import TracedCall, trace_call
from .compiler import compiled, packed, packer
from .memory import on_device
from .settings import Settings, current_settings
from .translate import Extent, Geometry, Numbers, Order, translate

Scalar = bool | int | float

# Kept, so that tests may put `metal_kernel` in its place.
_mlx_metal_kernel = mx.fast.metal_kernel

_MAX_BLOCKS = 65535
"""Threadgroups in y and in z that CUDA takes."""

_MAX_THREADS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A compiled kernel.

    Args:
        name: Name of its function.
        code: A cubin, or a fat binary with it.
        geometry: How it is launched.
        shape_info: For each input, whether the kernel takes its shape, strides and rank.
        takes_shapes: Whether it takes any.
    """

    name: str
    code: bytes
    geometry: Geometry
    shape_info: tuple[tuple[bool, bool, bool], ...]
    takes_shapes: bool


class _Call(NamedTuple):
    """What of a call decides what it launches: plain tuples, whose hashes take no time."""

    dtypes: tuple[mx.Dtype, ...]
    are_scalars: tuple[bool, ...]
    output_dtypes: tuple[mx.Dtype, ...]
    grid: Extent
    threadgroup: Extent
    template: tuple[tuple[str, bool | int | mx.Dtype], ...]
    settings: Settings


class CudaKernel:
    """A kernel from :func:`metal_kernel`; called like the kernels of ``mx.fast.metal_kernel``."""

    def __init__(self, kernel: Callable[..., Sequence[mx.array]], *, contiguous: bool) -> None:
        self._kernel = kernel
        self._contiguous = contiguous
        self._ready: dict[_Call, _Ready] = {}
        self._texts: dict[tuple[object, ...], TracedCall] = {}

    def __call__(
        self,
        *,
        inputs: Sequence[mx.array | Scalar],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Extent,
        threadgroup: Extent,
        template: Sequence[tuple[str, bool | int | mx.Dtype]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,  # noqa: ANN401 (as in MLX)
    ) -> list[mx.array]:
        """Adds a launch of the kernel to MLX's graph.

        Args:
            inputs: Arrays or scalars.
            output_shapes: Shapes of the outputs.
            output_dtypes: Dtypes of the outputs.
            grid: Threads in x, y and z.
            threadgroup: Threads of a threadgroup in x, y and z.
            template: Template arguments by name.
            init_value: What outputs hold before the kernel runs.
            verbose: Prints the generated Metal text.
            stream: Of a GPU; None for the default one.

        Returns:
            The outputs, which MLX evaluates when they are needed.

        Raises:
            KernelCompileError: The kernel does not compile.
            ValueError: MLX refuses the call.
        """
        if 0 in grid:
            filled = zip(output_shapes, output_dtypes, strict=True)
            return [mx.full(one, init_value or 0, dtype, stream=stream) for one, dtype in filled]
        arrays = [one if isinstance(one, mx.array) else _scalar(repr(one), one) for one in inputs]
        call = _call(arrays, output_dtypes, grid, threadgroup, template)
        ready = None if verbose else self._ready.get(call)
        if ready is None:
            ready = self._ready[call] = self._prepare(call, inputs, output_shapes, verbose)
        return self._launch(ready, call, arrays, output_shapes, init_value, stream)

    def bound(self, sizes: tuple[int, ...] = ()) -> Callable[..., list[mx.array]]:
        """Return the kernel for calls that differ in their arrays' values and their stream alone.

        Finding out what a call launches takes longer than to launch it: it is found out once. All
        arrays have elements, and axes.

        Args:
            sizes: Integers of a last input, which calls leave out.
        """
        launches: dict[Settings, Callable[..., list[mx.array]]] = {}
        settings, default = current_settings, mx.gpu

        def call(
            *,
            inputs: Sequence[mx.array],
            output_shapes: Sequence[Sequence[int]],
            output_dtypes: Sequence[mx.Dtype],
            grid: Extent,
            threadgroup: Extent,
            stream: Any = None,  # noqa: ANN401 (as in MLX)
        ) -> list[mx.array]:
            launch = launches.get(settings())
            if launch is None:
                launch = self._bind(inputs, sizes, output_shapes, output_dtypes, grid, threadgroup)
                launches[settings()] = launch
            return launch(inputs=inputs, stream=default if stream is None else stream)

        return call

    def _bind(
        self,
        arrays: Sequence[mx.array],
        sizes: tuple[int, ...],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Extent,
        threadgroup: Extent,
    ) -> Callable[..., list[mx.array]]:
        numbers = Numbers(buffer=len(arrays), count=len(sizes)) if sizes else None
        last = [mx.array(sizes, dtype=mx.int32)] if sizes else []
        inputs = [*arrays, *last]
        call = _call(inputs, output_dtypes, grid, threadgroup, None)
        ready = None
        if 0 not in grid:
            ready = self._prepare(call, inputs, output_shapes, verbose=False, numbers=numbers)
        if ready is not None and not ready.takes_shapes:
            fixed = self._fixed(ready, call, output_shapes, None, sizes)
            return partial(mx.fast.precompiled_cuda_kernel, **fixed)

        def unbound(*, inputs: Sequence[mx.array], stream: Any) -> list[mx.array]:  # noqa: ANN401
            return self(
                inputs=[*inputs, *last],
                output_shapes=output_shapes,
                output_dtypes=output_dtypes,
                grid=grid,
                threadgroup=threadgroup,
                stream=stream,
            )

        return unbound

    def _prepare(
        self,
        call: _Call,
        inputs: Sequence[mx.array | Scalar],
        output_shapes: Sequence[Sequence[int]],
        verbose: bool,
        numbers: Numbers | None = None,
    ) -> _Ready:
        """What a call launches, by the text that MLX makes of it."""
        geometry = replace(_geometry(call.grid, call.threadgroup), numbers=numbers)
        # What the text depends on: not sizes, but whether an input is a small one.
        small = tuple([_is_small(one) for one in inputs])
        kinds = (call.dtypes, call.are_scalars, small)
        key = (kinds, call.output_dtypes, len(output_shapes), call.template)
        traced = self._texts.get(key)
        if traced is None or verbose:
            traced = self._trace(call, inputs, output_shapes, geometry, verbose)
            self._texts[key] = traced
        return _ready(traced, geometry, call.settings)

    def _trace(
        self,
        call: _Call,
        inputs: Sequence[mx.array | Scalar],
        output_shapes: Sequence[Sequence[int]],
        geometry: Geometry,
        verbose: bool,
    ) -> TracedCall:
        # Arrays without values, for those of the call may be traced already.
        stand_ins = [
            mx.zeros(one.shape, one.dtype) if isinstance(one, mx.array) else one for one in inputs
        ]
        arguments = {
            "inputs": stand_ins,
            "output_shapes": output_shapes,
            "output_dtypes": call.output_dtypes,
            "grid": call.grid,
            "threadgroup": geometry.threadgroup,
            "template": call.template,
            "verbose": verbose,
        }
        return trace_call(self._kernel, arguments)

    def _launch(
        self,
        ready: _Ready,
        call: _Call,
        arrays: list[mx.array],
        output_shapes: Sequence[Sequence[int]],
        init_value: float | None,
        stream: Any,  # noqa: ANN401 (as in MLX)
    ) -> list[mx.array]:
        return mx.fast.precompiled_cuda_kernel(
            inputs=_with_shapes(arrays, ready.shape_info) if ready.takes_shapes else arrays,
            # As for Metal, the GPU's even where the default device is another.
            stream=mx.gpu if stream is None else stream,
            **self._fixed(ready, call, output_shapes, init_value),
        )

    def _fixed(
        self,
        ready: _Ready,
        call: _Call,
        output_shapes: Sequence[Sequence[int]],
        init_value: float | None,
        numbers: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        """Arguments of MLX's call but the inputs and the stream."""
        geometry = ready.geometry
        linear = geometry.is_linear
        return {
            "name": ready.name,
            "compiled_source": ready.code,
            "output_shapes": output_shapes,
            "output_dtypes": call.output_dtypes,
            "scalars": (*numbers, *(call.grid if geometry.takes_grid else ())),
            "grid": _linear(call.grid, geometry.threadgroup) if linear else call.grid,
            "threadgroup": geometry.threadgroup,
            "init_value": init_value,
            # Strides are those of a contiguous array, also for who would have taken others.
            "ensure_row_contiguous": self._contiguous or ready.takes_shapes,
        }


def _is_small(value: mx.array | Scalar) -> bool:
    """Whether MLX binds an input in the constant address space."""
    return not isinstance(value, mx.array) or value.size < CONSTANT_BINDING_LIMIT


def _call(
    arrays: Sequence[mx.array],
    output_dtypes: Sequence[mx.Dtype],
    grid: Extent,
    threadgroup: Extent,
    template: Sequence[tuple[str, bool | int | mx.Dtype]] | None,
) -> _Call:
    return _Call(
        tuple([one.dtype for one in arrays]),
        tuple([one.ndim == 0 for one in arrays]),
        tuple(output_dtypes),
        cast(Extent, tuple(grid)),
        cast(Extent, tuple(threadgroup)),
        tuple(template or ()),
        current_settings(),
    )


def _geometry(grid: Extent, threadgroup: Extent) -> Geometry:
    """How a kernel is launched; threadgroups are no larger than the grid, as in MLX.

    Raises:
        ProblemError: No such launch is possible.
    """
    for name, sizes in (("grid", grid), ("threadgroup", threadgroup)):
        if len(sizes) != 3 or min(sizes) < 1:
            raise ProblemError(f"[cuda] Expected three sizes in {name}, got {sizes}.")
    threads = prod(threadgroup)
    if threads > _MAX_THREADS:
        # In MLX's words.
        raise ProblemError(
            f"Thread group size ({threads}) is greater than  the maximum allowed threads per "
            f"threadgroup ({_MAX_THREADS})."
        )
    (gx, gy, gz), (x, y, z) = grid, map(min, grid, threadgroup)
    whole = not (gx % x or gy % y or gz % z)
    order = Order.COUNTED if gy > _MAX_BLOCKS * y or gz > _MAX_BLOCKS * z else Order.LAUNCHED
    return Geometry(threadgroup=(x, y, z), whole=whole, order=order)


def _linear(grid: Extent, threadgroup: Extent) -> Extent:
    """A grid of as many threadgroups in x alone."""
    x, y, z = threadgroup
    groups = prod(-(-size // block) for size, block in zip(grid, threadgroup, strict=True))
    return groups * x, y, z


@lru_cache(maxsize=4096)
def _ready(traced: TracedCall, launched: Geometry, settings: Settings) -> _Ready:
    geometry = launched.for_text(traced.text)
    code, name = _compiled(traced.text, geometry, settings, architecture())
    shape_info = traced.shape_info
    return _Ready(
        name=name,
        code=code,
        geometry=geometry,
        shape_info=shape_info,
        takes_shapes=any(any(flags) for flags in shape_info),
    )


@lru_cache(maxsize=4096)
def _compiled(text: str, geometry: Geometry, settings: Settings, machine: str) -> tuple[bytes, str]:
    translated = translate(text, geometry, exact=settings.exact)
    cubin = compiled(translated, machine, line_info=settings.line_info)
    fatbin = packer()
    return (packed(fatbin, cubin, machine) if fatbin else cubin), translated.name


@lru_cache(maxsize=1)
def architecture() -> str:
    """Return the architecture of MLX's GPU, as in ``90``.

    Raises:
        BackendError: MLX has no CUDA here.
    """
    if not mx.cuda.is_available():
        raise BackendError(
            "[cuda] Expected MLX's CUDA build and an NVIDIA GPU, got an MLX without CUDA."
        )
    info = mx.device_info(mx.gpu)
    return f"{info['compute_capability_major']}{info['compute_capability_minor']}"


def _with_shapes(
    arrays: Sequence[mx.array], shape_info: Sequence[tuple[bool, bool, bool]]
) -> list[mx.array]:
    """The arrays, each followed by its shape, strides and rank as far as the kernel takes them."""
    found: list[mx.array] = []
    for array, (shape, strides, rank) in zip(arrays, shape_info, strict=True):
        found.append(array)
        if shape:
            found.append(_integers(array.shape, mx.int32))
        if strides:
            found.append(_integers(_row_major(array.shape), mx.int64))
        if rank:
            found.append(_integers((array.ndim,), mx.int32))
    return found


@lru_cache(maxsize=1024)
def _integers(values: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    return on_device(mx.array(values, dtype))


@lru_cache(maxsize=1024)
def _scalar(spelled: str, value: Scalar) -> mx.array:
    """Return the array of a number, whose spelling tells it from equal ones: 1 is True, and 1.0."""
    return on_device(mx.array(value))


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    compile_options: Mapping[str, str] | None = None,
) -> CudaKernel:
    """A custom Metal kernel that runs on an NVIDIA GPU, through MLX's CUDA build.

    Takes what ``mx.fast.metal_kernel`` takes and compiles the very text that MLX makes of it. Lanes
    of a simdgroup must meet in its functions together, except for lanes that have ended: CUDA has
    no functions of those that happen to take a branch.

    Args:
        name: Name of the kernel.
        input_names: Names of the inputs in ``source``.
        output_names: Names of the outputs in ``source``.
        source: The body of the kernel.
        header: Text before the kernel.
        ensure_row_contiguous: Whether inputs are copied unless they are row-contiguous. An input
            whose strides the kernel takes is made contiguous all the same.
        atomic_outputs: Whether outputs are ``device atomic<T>*``.
        compile_options: As in MLX; they change nothing here.

    Returns:
        A callable with the signature of MLX's kernels, as lazy as they are.
    """
    options = {} if compile_options is None else {"compile_options": dict(compile_options)}
    kernel: Any = _mlx_metal_kernel(
        name=name,
        input_names=list(input_names),
        output_names=list(output_names),
        source=source,
        header=header,
        ensure_row_contiguous=ensure_row_contiguous,
        atomic_outputs=atomic_outputs,
        **options,
    )
    return CudaKernel(kernel, contiguous=ensure_row_contiguous)
