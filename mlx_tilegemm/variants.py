"""Every kernel text the dispatcher can choose, enumerated from the registry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .chips.record import Chip
from .kernels import KERNELS
from .plan import Plan, Spec
from .problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One text, and a small problem it serves.

    Attributes:
        problem: The problem.
        plan: The plan whose spec is the variant.
    """

    problem: Problem
    plan: Plan

    def __str__(self) -> str:
        return f"{self.plan}/{self.plan.spec.label}"


def variants(chip: Chip) -> Iterator[Variant]:
    """Yield a variant for every distinct spec of every legal configuration of every kernel."""
    seen: set[Spec] = set()
    for kernel in KERNELS:
        for problem in kernel.variant_problems():
            for config in kernel.candidates(problem, chip):
                if kernel.reject(problem, config, chip) is not None:
                    continue
                plan = kernel.plan(problem, config)
                if plan.spec not in seen:
                    seen.add(plan.spec)
                    yield Variant(problem=problem, plan=plan)
