"""Make a plan ready to run: everything about its launch that does not change from call to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import mlx.core as mx

from ..arguments import Number
from ..dtypes import INT32
from ..plan import Plan, Stage
from .base import Backend, StreamOrDevice

Run = Callable[[Sequence[mx.array], tuple[Number, ...], StreamOrDevice], list[mx.array]]
"""A prepared call: operands, factors and stream in, outputs out."""


_Launch = Callable[[Sequence[mx.array], StreamOrDevice], list[mx.array]]
"""A ready kernel and its launch: all inputs in, outputs out."""


# Where each factor a kernel may want stands among those its op passes.
_FACTOR_POSITIONS = {"alpha": 0, "beta": 1, "scale": 0}


def kernel_run(plan: Plan, backend: Backend, *, last_is_scalar: bool) -> Run:
    """Make a plan ready to run.

    Args:
        plan: The plan of a GEMM, or of an attention.
        backend: Where its kernels are compiled.
        last_is_scalar: Whether the last operand is an array without axes.
    """
    positions = tuple(_FACTOR_POSITIONS[name] for name in plan.factors)
    is_integer = INT32 in plan.stages[-1].launch.output_dtypes
    factor_array = _factor_arrays(positions, mx.int32 if is_integer else mx.float32)
    run = (_single if len(plan.stages) == 1 else _sequence)(plan, backend, factor_array)
    return _with_axis(run) if last_is_scalar else run


def _factor_arrays(positions: tuple[int, ...], dtype: mx.Dtype) -> Callable[..., mx.array]:
    """Return what makes the kernels' input ``factors`` of an op's, and remembers the last ones."""

    @lru_cache(maxsize=64)
    def factor_array(factors: tuple[Number, ...]) -> mx.array:
        return mx.array([factors[i] for i in positions], dtype=dtype)

    return factor_array


def _single(plan: Plan, backend: Backend, factor_array: Callable[..., mx.array]) -> Run:
    """Prepare a plan of one kernel, which takes the op's operands as they come."""
    stage = plan.stages[0]
    assert stage.spec.input_names[: len(operand_names(plan))] == operand_names(plan)
    launch = _launch(stage, backend)
    if "factors" not in stage.spec.input_names:
        return lambda operands, factors, stream: launch(operands, stream)
    return lambda operands, factors, stream: launch((*operands, factor_array(factors)), stream)


def _sequence(plan: Plan, backend: Backend, factor_array: Callable[..., mx.array]) -> Run:
    """Prepare a plan of several kernels, whose inputs are operands and earlier outputs."""
    names = operand_names(plan)
    stages = []
    for stage in plan.stages:
        taken = [name for name in stage.spec.input_names if name not in ("factors", "sizes")]
        inputs = tuple(names.index(name) for name in taken)
        stages.append((_launch(stage, backend), inputs, "factors" in stage.spec.input_names))
        names += stage.spec.output_names

    def run(
        operands: Sequence[mx.array], factors: tuple[Number, ...], stream: StreamOrDevice
    ) -> list[mx.array]:
        arrays, outputs = [*operands], []
        for launch, inputs, takes_factors in stages:
            values = [factor_array(factors)] if takes_factors else []
            outputs = launch([*(arrays[i] for i in inputs), *values], stream)
            arrays += outputs
        return outputs

    return run


def _with_axis(run: Run) -> Run:
    """Give the last operand an axis: MLX binds an array without as a reference."""

    def with_axis(
        operands: Sequence[mx.array], factors: tuple[Number, ...], stream: StreamOrDevice
    ) -> list[mx.array]:
        return run([*operands[:-1], operands[-1].reshape(1)], factors, stream)

    return with_axis


def operand_names(plan: Plan) -> tuple[str, ...]:
    """Return the names of the arrays a plan takes from its op, in the op's order."""
    produced = {name for stage in plan.stages for name in stage.spec.output_names}
    names = [name for stage in plan.stages for name in stage.spec.input_names]
    own = {"factors", "sizes"} | produced
    return tuple(dict.fromkeys(name for name in names if name not in own))


def _launch(stage: Stage, backend: Backend) -> _Launch:
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ..render import render

    kernel = backend.compile(render(stage.spec))
    launch = stage.launch
    sizes = mx.array(launch.sizes.values, dtype=mx.int32)
    output_shapes = list(launch.output_shapes)
    output_dtypes = [dtype.mlx for dtype in launch.output_dtypes]
    grid, threadgroup = launch.grid, launch.threadgroup

    def call(inputs: Sequence[mx.array], stream: StreamOrDevice) -> list[mx.array]:
        return kernel(
            inputs=[*inputs, sizes],
            output_shapes=output_shapes,
            output_dtypes=output_dtypes,
            grid=grid,
            threadgroup=threadgroup,
            stream=stream,
        )

    return call
