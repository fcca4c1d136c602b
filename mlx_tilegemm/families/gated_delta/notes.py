"""Notes on a gated delta update, for `explain`."""

from __future__ import annotations

from dataclasses import replace

from ...backends import Route
from ...core.dtypes import FLOAT32
from ...dispatch import Decision
from ...machine.chips.record import Chip
from .fused_backward import SPAN, multiplied_problem
from .kernels import delta_backward
from .price import mlx_lm_kernel
from .problem import CHUNK, DeltaGradientProblem, DeltaProblem


def notes(problem: DeltaProblem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    """Return what else is worth knowing about a call."""
    state = problem.matrices * problem.key_dim * problem.value_dim * FLOAT32.bytes
    found = [f"the state has {state} bytes, which are read and written once a call"]
    if decision.plan is None or route.backend is None:
        found.append(f"MLX's own ops run {problem.length} steps one after another, in float32")
    elif reason := _without_gradients(problem, chip):
        found.append(f"its gradients go through MLX's own ops: {reason}")
    elif (slices := delta_backward.slices_of(problem)) > 1:
        size = delta_backward.sliced(problem, slices).value_dim
        found.append(f"its gradients take a head of v as {slices} of {size} values each")
    if rival := mlx_lm_kernel(problem, chip):
        found.append(f"the kernel of {rival.path} is modelled at {1e6 * rival.seconds:.1f} us")
    if not problem.log_decay and problem.gamma is not FLOAT32:
        found.append(
            f"gamma is {problem.gamma}, in which decays near 1 are few: float32, or the logarithm "
            "with log_decay=True, keeps them apart"
        )
    return found


def _without_gradients(problem: DeltaProblem, chip: Chip) -> str | None:
    """Return why no kernel may serve the gradients, or None."""
    span = replace(multiplied_problem(problem), every=CHUNK, length=min(problem.length, SPAN))
    slices = delta_backward.slices_of(problem)
    gradients = DeltaGradientProblem(update=delta_backward.sliced(span, slices))
    configs = delta_backward.candidates(gradients, chip)
    reasons = [delta_backward.reject(gradients, config, chip) for config in configs]
    return None if None in reasons else reasons[-1]
