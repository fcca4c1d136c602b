"""Notes on products with chosen matrices, for `explain`."""

from __future__ import annotations

from ...backends import Route
from ...dispatch import Decision
from ...machine.chips.record import Chip
from .fallback import least_sorted, sorts
from .problem import AnyProblem, ExpertProblem


def notes(problem: AnyProblem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    """Return what else is worth knowing about a call."""
    if not isinstance(problem, ExpertProblem):
        return []
    chosen = problem.expected_experts
    found = [f"about {chosen:.0f} of {problem.experts} experts are read, were all as likely"]
    if problem.is_decoded:
        bits = problem.expert_bytes * 8 / max(1, problem.n * problem.k)
        found.append(f"the weight has {bits:.3g} bits an element, its scales included")
    if decision.plan is None or route.backend is None:
        return found + _mlx_notes(problem)
    if len(decision.plan.stages) > 1:
        found.append("products are listed by expert first; rows are neither sorted nor copied")
    return found


def _mlx_notes(problem: ExpertProblem) -> list[str]:
    ordering = ["rows are sorted by expert first, and back after"] * sorts(
        problem, least_sorted(problem)
    )
    if problem.has_codes:
        return ["MLX's ops decode the weight into a copy of float32 first", *ordering]
    compute = problem.computed
    floats = {problem.x, problem.w} if problem.weight is None else {problem.x}
    if problem.biases is not None:
        floats |= {one for one in (problem.scales, problem.biases) if one}
    found = [f"MLX's op casts operands into copies of {compute} first"] * (floats != {compute})
    return found + ordering
