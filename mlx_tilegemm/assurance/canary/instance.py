"""The smallest problem that a kernel variant serves with the very text it has for a larger one.

What is compiled into a text (k, n, head sizes, dtypes, alignment) stays; what is a run-time number
(rows, batch, heads, sequence lengths) shrinks to a few, off every tile. Which is which is not
repeated here: an instance is right if the kernel's own plan gives it the same specs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...core.plan import Plan
from ...core.problem import Problem
from ...families import kernel_named
from ...machine.chips import Chip

MAX_ELEMENTS = 1 << 26
"""Operand elements up to which a problem that nothing smaller stands for is tried itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A problem to try a kernel variant with.

    Attributes:
        problem: The problem.
        plan: Its plan, of the variant's own specs.
    """

    problem: Problem
    plan: Plan


def smallest_instance(problem: Problem, plan: Plan, chip: Chip) -> Instance | None:
    """Return a small instance of ``plan``'s kernel variant, or None if there is none.

    Args:
        problem: A problem that the plan serves.
        plan: The plan.
        chip: The chip it was chosen for.
    """
    kernel = kernel_named(plan.kernel)
    for smaller in problem.smaller():
        if kernel.reject(smaller, plan.config, chip) is not None:
            continue
        candidate = kernel.plan(smaller, plan.config)
        if _specs(candidate) == _specs(plan):
            return Instance(problem=smaller, plan=candidate)
    if sum(one.elements for one in problem.operands) > MAX_ELEMENTS:
        return None
    return Instance(problem=problem.stored(), plan=kernel.plan(problem.stored(), plan.config))


def _specs(plan: Plan) -> list[object]:
    return [stage.spec for stage in plan.stages]
