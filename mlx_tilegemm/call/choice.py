"""The choice of what serves a call: legality, cost, measurements and proof, in one place.

`mlx_tilegemm.dispatch` decides by what kernels may serve and what they are modelled to take. Here
its decision meets this machine: the times that were measured on it, and the trials that kernels
passed or failed on it. Preparing a call and explaining it both ask here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from ..assurance import canary
from ..assurance.canary import State
from ..assurance.measurements import measured
from ..backends import CANARY_VARIABLE, Backend
from ..core.plan import Plan
from ..core.problem import Problem
from ..dispatch import Decision, choose, refuse
from ..families import family_of, kernel_named
from ..machine.chips import Chip, detect

MAX_FAILURES = 3
"""Configurations of a kernel that are tried for a problem; if all fail, so does the kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Choice of what serves a call.

    Attributes:
        problem: What the call solves: the problem asked for, or one that its derivatives need.
        decision: The choice for it, and from what; its plan solves ``problem``.
        proof: What is known of the plan's kernels on this machine, in words; empty where they need
            not prove themselves.
    """

    problem: Problem
    decision: Decision
    proof: str = ""

    @property
    def plan(self) -> Plan | None:
        """The plan; None stands for MLX's own ops."""
        return self.decision.plan


def chosen(
    problem: Problem,
    backend: Backend | None,
    *,
    force: str | None = None,
    gradients: bool = True,
    chip: Chip | None = None,
    try_new: bool = True,
) -> Choice:
    """Return what serves a call.

    Args:
        problem: What is asked.
        backend: Where the call would run; None for MLX's own ops.
        force: As `mlx_tilegemm.dispatch.choose`.
        gradients: Whether the call carries its derivatives.
        chip: Choose as a Mac with this chip would, by modelled times; None is this machine.
        try_new: Try kernels that have not been tried on this machine.

    Raises:
        IllegalKernelError: As `choose`; also where every kernel that ``force`` allows is disabled.
    """
    here = chip is None
    place = chip or detect()[0]
    rivals = canary.competes_with_mlx(backend)
    decision = choose(
        problem,
        place,
        force,
        mlx_competes=rivals or not here,
        measurements=measured(problem, place) if here and _is_clocked(backend) else None,
        modelled=not here or backend is None or backend.capabilities.modelled,
    )
    solved = family_of(problem).differentiable(problem) if gradients else problem
    needed = here and backend is not None and canary.is_needed(backend)
    failures: Counter[str] = Counter()
    while decision.plan is not None:
        plan, reason = _solving(decision.plan, problem, solved, place)
        verdict = None
        if plan is not None and needed:
            assert backend is not None
            verdict = canary.proved(solved, plan, backend) if try_new else canary.look_up(plan)
            reason = str(verdict) if verdict.state is State.DISABLED else None
        if reason is None:
            proof = str(verdict) if verdict else _switched_off(backend, here)
            return Choice(problem=solved, decision=replace(decision, plan=plan), proof=proof)
        decision = _refused(decision, decision.plan, problem, force, reason, failures)
    return Choice(problem=problem, decision=decision)


def _is_clocked(backend: Backend | None) -> bool:
    """Whether what was measured on this machine was measured where the call would run."""
    if backend is None or not backend.capabilities.has_clock:
        return False
    return backend.missing() is None


def _solving(
    plan: Plan, problem: Problem, solved: Problem, chip: Chip
) -> tuple[Plan | None, str | None]:
    """Return the problem's plan for the one that is solved, or None and why there is none."""
    if solved == problem:
        return plan, None
    kernel = kernel_named(plan.kernel)
    reason = kernel.reject(solved, plan.config, chip)
    if reason is not None:
        return None, f"with its derivatives, {reason}"
    return kernel.plan(solved, plan.config), None


def _refused(
    decision: Decision,
    plan: Plan,
    problem: Problem,
    force: str | None,
    reason: str,
    failures: Counter[str],
) -> Decision:
    """Return the choice from what is left when the chosen plan may not serve."""
    failures[plan.kernel] += 1
    # Where several configurations fail, so will most: trying all of them takes long.
    several = failures[plan.kernel] == MAX_FAILURES
    refused = plan.kernel if several else str(plan)
    return refuse(decision, problem, force, refused=refused, reason=reason)


def _switched_off(backend: Backend | None, here: bool) -> str:
    """Return why kernels need not prove themselves, if that is the setting alone."""
    needed = here and canary.would_be_needed(backend)
    return f"switched off by {CANARY_VARIABLE}" if needed else ""
