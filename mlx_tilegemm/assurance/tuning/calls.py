"""Ready calls of a problem's candidates, and their check against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
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
from .measure import Clock, Effort, Launches, Wait, Work

if TYPE_CHECKING:
    from ...core.family import Run

ROWS = 16
"""Rows of a result that are compared with the reference."""

AHEAD = 8
"""Calls that are made before those before them are handed to the GPU."""

MOST_ELEMENTS = 1 << 25
"""Of a step of what keeps a GPU busy: 128 MiB of float32."""

STEPS = 16
"""That are timed together."""

MOST_STEPS = 512
"""Of what keeps a GPU busy; more make MLX wait before it hands on what follows."""

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
    """Return a function that makes a call so many times, one after the other.

    A GPU runs calls that do not need each other's results side by side, which in a model few can
    be: each gets its first operand through a small op of MLX's that needs the last result.

    Args:
        call: What is called.
        sets: Operands that calls take in turn; with as many as no cache holds, memory is read.
    """

    def make(count: int, work: Work | None) -> Wait:
        last = None if work is None else work()
        for number in range(count):
            first, *others = sets[number % len(sets)]
            outputs = call([first if last is None else _after(first, last), *others])
            last = outputs[0] if len(outputs) == 1 else mx.depends(outputs[0], [*outputs[1:]])
            if work is None and number % AHEAD == AHEAD - 1:
                mx.async_eval(last)
        done = [] if last is None else [last]
        mx.async_eval(done)
        return partial(mx.eval, done)

    return make


def links(sets: Sequence[Operands]) -> Launches:
    """Return a function that makes the small ops alone by which such calls get their operands.

    Args:
        sets: Operands of the calls.
    """
    return launches(lambda operands: operands[:1], sets)


def _after(array: mx.array, last: mx.array) -> mx.array:
    """Return a copy of an array that is made after another one."""
    return _copied(array, last[(0,) * last.ndim])


@mx.compile
def _copied(array: mx.array, element: mx.array) -> mx.array:
    """Return a copy of an array; one kernel, to which an element of another one is handed."""
    return array + mx.where(True, 0, element).astype(array.dtype)


def busy(effort: Effort, clock: Clock) -> Work:
    """Return work that takes the GPU longer than any sample's calls take to make.

    It is a step alone by a clock on which that takes no time.
    """
    wanted, size = 2.5 * effort.sample_seconds, 1 << 20
    taken = _seconds(_steps(size, STEPS), clock)
    while size < MOST_ELEMENTS and 0 < taken < wanted / 4:
        size *= 2
        taken = _seconds(_steps(size, STEPS), clock)
    steps = ceil(STEPS * wanted / taken) if taken else 1
    return _steps(size, min(steps, MOST_STEPS))


def _steps(size: int, count: int) -> Work:
    array = mx.zeros(size)
    mx.eval(array)

    def work() -> mx.array:
        last = array
        for _ in range(count):
            last = mx.negative(last)
        mx.async_eval(last)
        return last

    return work


def _seconds(work: Work, clock: Clock) -> float:
    """Return the least seconds of three turns of work."""
    found = []
    for _ in range(3):
        start = clock()
        mx.eval(work())
        found.append(clock() - start)
    return min(found)


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
