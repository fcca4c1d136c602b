"""Make a plan ready to run: everything about its launch that does not change from call to call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

import mlx.core as mx

from ..core.fast_path import DirectRun, every_of, undirected
from ..core.plan import Plan, Stage
from ..core.problem import Factors, Problem
from .base import Backend, StreamOrDevice

if TYPE_CHECKING:
    from ..core.family import Run

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
    factor_array = _factor_arrays(positions, problem.accumulates.mlx, backend)
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


def _factor_arrays(
    positions: tuple[int, ...], dtype: mx.Dtype, backend: Backend
) -> Callable[[Factors], mx.array]:
    """Return a function that makes kernels' input ``factors``, and remembers the last ones."""

    @lru_cache(maxsize=64)
    def factor_array(factors: Factors) -> mx.array:
        values = tuple(factors[i] for i in positions)
        return _resident(values, repr(values), dtype, backend)

    return factor_array


@lru_cache(maxsize=1024)
def _resident(values: Factors, spelled: str, dtype: mx.Dtype, backend: Backend) -> mx.array:
    """Return the array of some factors, which calls of all sizes share.

    Spelled, for 0.0 and -0.0 are equal.
    """
    return backend.resident(mx.array(values, dtype=dtype))


def _single(
    problem: Problem, plan: Plan, backend: Backend, factor_array: Callable[[Factors], mx.array]
) -> Run:
    """Prepare a plan of one kernel, which takes the op's operands as they come."""
    stage = plan.stages[0]
    takes_factors = "factors" in stage.spec.input_names
    return _launch(stage, backend, factor_array if takes_factors else None)


def _sequence(
    problem: Problem, plan: Plan, backend: Backend, factor_array: Callable[[Factors], mx.array]
) -> Run:
    """Prepare kernels whose inputs are operands and outputs of earlier ones."""
    names = problem.operand_names
    stages = []
    for stage in plan.stages:
        taken = [name for name in stage.spec.input_names if name not in OWN_INPUTS]
        inputs = _pick(names.index(name) for name in taken)
        own = factor_array if "factors" in stage.spec.input_names else None
        stages.append((_launch(stage, backend, own), inputs, len(taken)))
        names += stage.spec.output_names
    results = _pick(names.index(one.name) for one in problem.results)
    calls = [(undirected(launch), inputs) for launch, inputs, _ in stages]

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        arrays = [*operands]
        for launch, inputs in calls:
            arrays += launch(inputs(arrays), factors, stream)
        return list(results(arrays))

    def every(factors: Factors, count: int) -> Callable[..., list[mx.array]]:
        launches = [(every_of(launch, factors, own), inputs) for launch, inputs, own in stages]

        def direct(*operands: mx.array) -> list[mx.array]:
            arrays = [*operands[:count]]
            for launch, inputs in launches:
                arrays += launch(*inputs(arrays))
            return list(results(arrays))

        return direct

    return DirectRun(run, every=every)


def _pick(places: Iterable[int]) -> Callable[[Sequence[mx.array]], tuple[mx.array, ...]]:
    """Return a function that takes the arrays at some places."""
    first, *others = places
    if others:
        return itemgetter(first, *others)
    return lambda arrays: (arrays[first],)


def _with_axes(run: Run, single: tuple[int, ...]) -> Run:
    """Give operands of one element an axis: MLX binds an array without as a reference."""
    run = undirected(run)

    def with_axes(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        given = [*operands]
        for i in single:
            given[i] = mx.reshape(given[i], (1,), stream=stream)
        return run(given, factors, stream)

    return with_axes


def _launch(
    stage: Stage, backend: Backend, factor_array: Callable[[Factors], mx.array] | None
) -> Run:
    """Return a ready kernel and its launch, which makes the inputs that are no operands.

    Frames of Python are a part of what a warm call costs: a launch is one, with factors or without.
    """
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ..core.render import render

    launch = stage.launch
    kernel, sizes = backend.bound(backend.compile(render(stage.spec)), launch.sizes.values)
    output_shapes = list(launch.output_shapes)
    output_dtypes = [dtype.mlx for dtype in launch.output_dtypes]
    grid, threadgroup = launch.grid, launch.threadgroup

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return kernel(
            inputs=[*operands, *sizes],
            output_shapes=output_shapes,
            output_dtypes=output_dtypes,
            grid=grid,
            threadgroup=threadgroup,
            stream=stream,
        )

    def every(factors: Factors, count: int) -> Callable[..., list[mx.array]]:
        own = sizes if factor_array is None else (factor_array(factors), *sizes)

        def direct(*operands: mx.array) -> list[mx.array]:
            return kernel(
                inputs=[*operands[:count], *own],
                output_shapes=output_shapes,
                output_dtypes=output_dtypes,
                grid=grid,
                threadgroup=threadgroup,
            )

        return direct

    if factor_array is None:
        return DirectRun(call, every=every)
    array_of = factor_array

    def call_with_factors(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return kernel(
            inputs=[*operands, array_of(factors), *sizes],
            output_shapes=output_shapes,
            output_dtypes=output_dtypes,
            grid=grid,
            threadgroup=threadgroup,
            stream=stream,
        )

    return DirectRun(call_with_factors, every=every)
