"""Make a plan ready to run: everything about its launch that does not change from call to call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

import mlx.core as mx

from ..core.plan import Plan, Stage
from ..core.problem import Factors, Problem
from .base import Backend, StreamOrDevice

if TYPE_CHECKING:
    from ..core.family import Run

_Launch = Callable[[Sequence[mx.array], StreamOrDevice], list[mx.array]]
"""A ready kernel and its launch: all inputs in, outputs out."""

OWN_INPUTS = ("factors", "sizes")
"""Inputs of kernels that are no operands."""


def kernel_run(problem: Problem, plan: Plan, backend: Backend) -> Run:
    """Make a plan ready to run.

    Args:
        problem: What the plan serves: it names operands, factors and results.
        plan: The plan.
        backend: Where its kernels are compiled.
    """
    positions = tuple(problem.factors.index(name) for name in plan.factors)
    factor_array = _factor_arrays(positions, problem.accumulates.mlx)
    run = (_single if _is_direct(problem, plan) else _sequence)(
        problem, plan, backend, factor_array
    )
    single = tuple(i for i, one in enumerate(problem.operands) if one.elements == 1)
    return _with_axes(run, single) if single else run


def _is_direct(problem: Problem, plan: Plan) -> bool:
    """Whether one kernel takes the operands as they come, and gives the results."""
    (stage, *others) = plan.stages
    taken = tuple(name for name in stage.spec.input_names if name not in OWN_INPUTS)
    results = tuple(one.name for one in problem.results)
    return not others and taken == problem.operand_names and stage.spec.output_names == results


def _factor_arrays(positions: tuple[int, ...], dtype: mx.Dtype) -> Callable[[Factors], mx.array]:
    """Return a function that makes kernels' input ``factors``, and remembers the last ones."""

    @lru_cache(maxsize=64)
    def factor_array(factors: Factors) -> mx.array:
        return mx.array([factors[i] for i in positions], dtype=dtype)

    return factor_array


def _single(
    problem: Problem, plan: Plan, backend: Backend, factor_array: Callable[[Factors], mx.array]
) -> Run:
    """Prepare a plan of one kernel, which takes the op's operands as they come."""
    stage = plan.stages[0]
    launch = _launch(stage, backend)

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return launch(operands, stream)

    def run_with_factors(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return launch((*operands, factor_array(factors)), stream)

    return run_with_factors if "factors" in stage.spec.input_names else run


def _sequence(
    problem: Problem, plan: Plan, backend: Backend, factor_array: Callable[[Factors], mx.array]
) -> Run:
    """Prepare kernels whose inputs are operands and outputs of earlier ones."""
    names = problem.operand_names
    stages = []
    for stage in plan.stages:
        taken = [name for name in stage.spec.input_names if name not in OWN_INPUTS]
        inputs = _pick(names.index(name) for name in taken)
        stages.append((_launch(stage, backend), inputs, "factors" in stage.spec.input_names))
        names += stage.spec.output_names
    results = _pick(names.index(one.name) for one in problem.results)

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        arrays = [*operands]
        for launch, inputs, takes_factors in stages:
            taken = inputs(arrays)
            if takes_factors:
                taken = (*taken, factor_array(factors))
            arrays += launch(taken, stream)
        return list(results(arrays))

    return run


def _pick(places: Iterable[int]) -> Callable[[Sequence[mx.array]], tuple[mx.array, ...]]:
    """Return a function that takes the arrays at some places."""
    first, *others = places
    if others:
        return itemgetter(first, *others)
    return lambda arrays: (arrays[first],)


def _with_axes(run: Run, single: tuple[int, ...]) -> Run:
    """Give operands of one element an axis: MLX binds an array without as a reference."""

    def with_axes(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        given = [*operands]
        for i in single:
            given[i] = mx.reshape(given[i], (1,), stream=stream)
        return run(given, factors, stream)

    return with_axes


def _launch(stage: Stage, backend: Backend) -> _Launch:
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ..core.render import render

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
