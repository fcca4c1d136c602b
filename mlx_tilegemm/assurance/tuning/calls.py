"""Ready calls of a problem's candidates, and their check against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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

ROWS = 16
"""Rows of a result that are compared with the reference."""

PENDING_BYTES = 1 << 28
"""Size of the results that wait for each other in one sample, at most."""

Call = Callable[[], Sequence[mx.array]]


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
        return partial(run, self.operands, self.factors, None)

    def on_mlx(self) -> Call | None:
        """Return the call of MLX's own ops, or None where they have none that stands alone."""
        run = family_of(self.problem).fallback(self.problem)
        return None if run is None else partial(run, self.operands, self.factors, None)


def workload(problem: Problem, seed: int = 7) -> Workload:
    """Return a problem, as kernels see it, with random operands."""
    stored, family = problem.stored(), family_of(problem)
    operands = tuple(family.draw(stored, Data(seed=seed)))
    mx.eval(*operands)
    return Workload(problem=stored, operands=operands, factors=family.trial_factors(stored))


def launches(call: Call) -> Launches:
    """Return a function that makes a call so many times, lets results pile up, and waits."""

    def make(count: int) -> None:
        waiting: list[mx.array] = []
        pending = 0
        for _ in range(count):
            outputs = call()
            waiting += outputs
            pending += sum(one.nbytes for one in outputs)
            if pending >= PENDING_BYTES:
                mx.async_eval(*waiting)
                waiting, pending = waiting[-1:], 0
        mx.eval(*waiting)

    return make


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
