"""Choose a kernel: problem and chip in, plan and reasons out.

Pure, total and deterministic. Every configuration of every kernel is a candidate; the kernel's own
`reject` says which are legal, its own `cost` orders them, and the order of declaration decides
ties. Where none is legal the answer is MLX's own ops, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from .chips.record import Chip
from .errors import IllegalKernelError
from .kernels import KERNELS, Kernel
from .plan import Plan
from .problem import Problem

MLX = "mlx"
"""What `choose` is forced to, and what a route is called, where MLX's own ops serve the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One configuration and what became of it.

    Attributes:
        kernel: Name of the kernel.
        config: Its tile and staging choice.
        reason: Why it was refused; None if it is legal.
        seconds: Modelled time of a legal one.
        plan: Plan of a legal one.
    """

    kernel: str
    config: str
    reason: str | None
    seconds: float | None
    plan: Plan | None

    def __str__(self) -> str:
        return f"{self.kernel}/{self.config}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was chosen, and from what.

    Attributes:
        plan: The plan; None stands for MLX's own ops.
        reason: Why.
        candidates: Every configuration that was considered, in order of declaration.
    """

    plan: Plan | None
    reason: str
    candidates: tuple[Candidate, ...]

    @property
    def route(self) -> str:
        """Name of the kernel chosen, or ``mlx``."""
        return self.plan.kernel if self.plan else MLX


@lru_cache(maxsize=4096)
def choose(problem: Problem, chip: Chip, force: str | None = None) -> Decision:
    """Return the cheapest legal plan for a problem on a chip.

    Args:
        problem: What is asked.
        chip: Where it would run.
        force: Restrict the choice: a kernel's name, ``kernel/config`` for one configuration, or
            ``mlx``.

    Raises:
        IllegalKernelError: ``force`` names nothing known, or nothing that may serve the problem;
            the message holds the reason of every refusal.
    """
    return _best(tuple(_candidates(problem, chip)), problem, force)


def refuse(
    decision: Decision, problem: Problem, force: str | None, *, refused: str, reason: str
) -> Decision:
    """Return the choice that is left when more is refused than the kernels themselves refuse.

    Args:
        decision: The choice so far.
        problem: What it is for.
        force: As `choose`.
        refused: A kernel's name, or ``kernel/config`` for one configuration.
        reason: Why.

    Raises:
        IllegalKernelError: ``force`` allows nothing that is left.
    """
    found = tuple(
        replace(one, reason=reason, seconds=None, plan=None)
        if one.seconds is not None and refused in (one.kernel, str(one))
        else one
        for one in decision.candidates
    )
    return _best(found, problem, force)


def _best(found: tuple[Candidate, ...], problem: Problem, force: str | None) -> Decision:
    if force == MLX:
        return Decision(plan=None, reason="MLX's own ops were asked for", candidates=found)
    allowed = [one for one in found if force in (None, one.kernel, str(one))]
    legal = [one for one in allowed if one.seconds is not None]
    if force is not None and not legal:
        raise IllegalKernelError(_forced_message(problem, force, allowed))
    if not legal:
        return Decision(plan=None, reason=_refusal(found), candidates=found)
    best = min(legal, key=_seconds)
    reason = "asked for" if force else f"lowest modelled time of {len(legal)} legal candidates"
    return Decision(plan=best.plan, reason=reason, candidates=found)


def _seconds(candidate: Candidate) -> float:
    assert candidate.seconds is not None
    return candidate.seconds


def _candidates(problem: Problem, chip: Chip) -> Iterator[Candidate]:
    for kernel in (kernel for kernel in KERNELS if isinstance(problem, kernel.PROBLEM)):
        for config in kernel.candidates(problem, chip):
            yield _candidate(kernel, config, problem, chip)


def _candidate(kernel: Kernel, config: object, problem: Problem, chip: Chip) -> Candidate:
    reason = kernel.reject(problem, config, chip)
    legal = reason is None
    return Candidate(
        kernel=kernel.NAME,
        config=str(config),
        reason=reason,
        seconds=kernel.cost(problem, config, chip) if legal else None,
        plan=kernel.plan(problem, config) if legal else None,
    )


def _refusal(candidates: tuple[Candidate, ...]) -> str:
    """Sum up why nothing is legal, each reason once."""
    return "; ".join(dict.fromkeys(one.reason for one in candidates if one.reason))


def _forced_message(problem: Problem, force: str, allowed: list[Candidate]) -> str:
    if not allowed:
        serving = [kernel.NAME for kernel in KERNELS if isinstance(problem, kernel.PROBLEM)]
        known = ", ".join([*serving, MLX])
        return f"[dispatch] Expected a kernel among {known}, or kernel/config, got {force!r}."
    return (
        f"[dispatch] Expected a kernel that may serve {problem}, got {force}: "
        f"{_refusal(tuple(allowed))}."
    )
