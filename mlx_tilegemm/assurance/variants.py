"""Every kernel text that dispatch can choose, enumerated from the registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.kernel import Kernel
from ..core.plan import Plan, Spec
from ..core.problem import Problem
from ..errors import IllegalKernelError
from ..families import all_kernels
from ..machine.chips import DEFAULT, NVIDIA, get
from ..machine.chips.record import Chip

COVERING: tuple[Chip, ...] = (DEFAULT, get("m5"), NVIDIA)
"""Chips that reach every text between them: one without neural accelerators, one with them, and the
stand-in for those with more registers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A plan with a text that no earlier variant has, and the small problem it serves.

    Attributes:
        problem: The problem.
        plan: The plan.
        chip: The first chip that may run it.
    """

    problem: Problem
    plan: Plan
    chip: Chip

    def __str__(self) -> str:
        return "+".join(stage.spec.label for stage in self.plan.stages) + f"/{self.plan.config}"


def variants(
    chips: Sequence[Chip] = COVERING, kernels: Iterable[Kernel[Any, Any]] | None = None
) -> Iterator[Variant]:
    """Yield a variant for every distinct spec of every kernel that any of the chips may run.

    Args:
        chips: Chips to choose for.
        kernels: Kernels to go through; None for all there are.

    Raises:
        IllegalKernelError: None of the chips may run a kernel, so that nothing would check it.
    """
    for kernel in all_kernels() if kernels is None else kernels:
        found = list(variants_of(kernel, chips))
        if not found:
            names = ", ".join(chip.name for chip in chips)
            raise IllegalKernelError(
                f"[variants] Expected every kernel to have a variant on one of {names}, got none "
                f"of {kernel.name}."
            )
        yield from found


def variants_of(kernel: Kernel[Any, Any], chips: Sequence[Chip]) -> Iterator[Variant]:
    """Yield a variant for every distinct spec of a kernel's legal configurations on any chip."""
    seen: set[Spec] = set()
    for chip in chips:
        for problem in kernel.variant_problems():
            for config in kernel.candidates(problem, chip):
                if kernel.reject(problem, config, chip) is not None:
                    continue
                plan = kernel.plan(problem, config)
                specs = {stage.spec for stage in plan.stages}
                if not specs <= seen:
                    seen |= specs
                    yield Variant(problem=problem, plan=plan, chip=chip)
