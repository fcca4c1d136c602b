"""Ready calls of a problem's candidates, and their check against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import Backend
from ...backends.launch import kernel_run
from ...backends.rounding import factor_roundoff
from ...core.family import Data
from ...core.plan import Plan
from ...core.problem import Factors, Problem
from ...core.reference import hold
from ...families import family_of
from .measure import Launches

if TYPE_CHECKING:
    from ...core.family import Run

ROWS = 16
"""Rows of a result that are compared with the reference."""

AHEAD = 8
"""Calls that are made before those before them are handed to the GPU."""

Operands = Sequence[mx.array]

Call = Callable[[Operands], Sequence[mx.array]]
"""Computes results of operands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A problem with data.

    Attributes:
        problem: The problem.
        operands: Its arrays, in order.
        factors: Its factors, in order.
    """

    problem: Problem
    operands: tuple[mx.array, ...]
    factors: Factors

    def on_kernel(self, plan: Plan, backend: Backend) -> Call:
        """Return the call of a plan's kernels."""
        run = kernel_run(self.problem, plan, backend)
        return partial(_called, run, self.factors)

    def on_mlx(self) -> Call | None:
        """Return the call of MLX's own ops, or None where they have none that stands alone."""
        run = family_of(self.problem).fallback(self.problem)
        return None if run is None else partial(_called, run, self.factors)


def _called(run: Run, factors: Factors, operands: Operands) -> Sequence[mx.array]:
    return run(operands, factors, None)


def workload(problem: Problem, seed: int = 7) -> Workload:
    """Return a problem, as kernels see it, with random operands."""
    stored, family = problem.stored(), family_of(problem)
    operands = tuple(family.draw(stored, Data(seed=seed)))
    mx.eval(*operands)
    return Workload(problem=stored, operands=operands, factors=family.trial_factors(stored))


def launches(call: Call, sets: Sequence[Operands]) -> Launches:
    """Return a function that makes a call so many times, one after the other, and waits.

    A GPU runs calls that do not need each other's results side by side, which in a model few can
    be: each gets its first operand through a small op of MLX's that needs the last result.

    Args:
        call: What is called.
        sets: Operands that calls take in turn; with as many as no cache holds, memory is read.
    """
    always = mx.array(True)

    def make(count: int) -> None:
        last: mx.array | None = None
        for number in range(count):
            first, *others = sets[number % len(sets)]
            outputs = call([first if last is None else _after(always, first, last), *others])
            last = outputs[0] if len(outputs) == 1 else mx.depends(outputs[0], [*outputs[1:]])
            if number % AHEAD == AHEAD - 1:
                mx.async_eval(last)
        mx.eval(last)

    return make


def _after(always: mx.array, array: mx.array, last: mx.array) -> mx.array:
    """Return a copy of an array that is made after another one, by as few ops as can be."""
    element = last[(slice(1),) * last.ndim]
    if element.dtype != array.dtype:
        element = element.astype(array.dtype)
    if element.ndim > array.ndim:
        element = element.reshape((1,) * array.ndim)
    return mx.where(always, array, element)


def mistake(work: Workload, outputs: Sequence[mx.array], *, by_mlx: bool = False) -> str | None:
    """Return what is wrong with a call's results, or None; of many rows, some are compared.

    Args:
        work: What was called.
        outputs: Its results.
        by_mlx: MLX's own ops computed them, which may round factors.
    """
    family = family_of(work.problem)
    part = family.part(work.problem, work.operands, outputs, ROWS)
    if by_mlx and family.rounded is not None:
        roundoff = 0.0 if work.problem.exact else factor_roundoff()
        wanted = family.rounded(part.problem, part.operands, work.factors, roundoff)
    else:
        wanted = family.reference(part.problem, part.operands, work.factors)
    _, reasons = hold(part.problem, part.outputs, wanted)
    return reasons[0] if reasons else None
