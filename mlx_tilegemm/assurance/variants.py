"""Every kernel text that dispatch can choose, enumerated from the registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..core.kernel import Kernel
from ..core.plan import Plan, Spec
from ..core.problem import Problem
from ..errors import IllegalKernelError
from ..families import all_kernels
from ..machine.chips.record import Chip


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


def variants(
    chips: Iterable[Chip], kernels: Iterable[Kernel[Any, Any]] | None = None
) -> Iterator[Variant]:
    """Yield a variant for every distinct spec of every legal configuration of every kernel.

    Args:
        chips: Chips to choose for.
        kernels: Kernels to go through; None for all there are.

    Raises:
        IllegalKernelError: A kernel may serve none of its own small problems on any of the chips.
    """
    chips = tuple(chips)
    seen: set[Spec] = set()
    for kernel in all_kernels() if kernels is None else kernels:
        found = False
        for problem, plan in _legal(kernel, chips):
            found = True
            specs = {stage.spec for stage in plan.stages}
            if not specs <= seen:
                seen |= specs
                yield Variant(problem=problem, plan=plan)
        if not found:
            names = ", ".join(chip.name for chip in chips)
            raise IllegalKernelError(
                f"[variants] Expected a problem that the kernel {kernel.name} may serve on one of "
                f"{names}, got none."
            )


def _legal(kernel: Kernel[Any, Any], chips: tuple[Chip, ...]) -> Iterator[tuple[Problem, Plan]]:
    for problem in kernel.variant_problems():
        done = set()
        for chip in chips:
            for config in kernel.candidates(problem, chip):
                if config not in done and kernel.reject(problem, config, chip) is None:
                    done.add(config)
                    yield problem, kernel.plan(problem, config)
