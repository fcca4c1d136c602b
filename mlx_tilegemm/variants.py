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
    """A plan with a text that no earlier variant has, and the small problem it serves.

    Attributes:
        problem: The problem.
        plan: The plan.
    """

    problem: Problem
    plan: Plan

    def __str__(self) -> str:
        return "+".join(stage.spec.label for stage in self.plan.stages) + f"/{self.plan.config}"


def variants(chip: Chip) -> Iterator[Variant]:
    """Yield a variant for every distinct spec of every legal configuration of every kernel."""
    seen: set[Spec] = set()
    for kernel in KERNELS:
        for problem in kernel.variant_problems():
            for config in kernel.candidates(problem, chip):
                if kernel.reject(problem, config, chip) is not None:
                    continue
                plan = kernel.plan(problem, config)
                specs = {stage.spec for stage in plan.stages}
                if not specs <= seen:
                    seen |= specs
                    yield Variant(problem=problem, plan=plan)
