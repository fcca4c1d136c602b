"""Notes on a product of scaled codes, for `explain`."""

from __future__ import annotations

from ...backends import Route
from ...dispatch import Decision
from ...machine.chips.record import Chip
from .problem import ScaledProblem


def notes(problem: ScaledProblem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    """Return what else is worth knowing about a call."""
    stored = problem.weight_bytes * 8 / max(1, problem.elements("b"))
    found = [f"b has {stored:.4g} bits an element, its scales included"]
    if decision.plan is None or route.backend is None:
        copies = 4 * problem.elements("b")
        return [*found, f"MLX has no product of codes: b is decoded into {copies} bytes of float32"]
    if problem.is_integer:
        found.append("sums are of integers, exact in int32; scales multiply them at the end")
    rows = problem.out_shape[-2] if len(problem.out_shape) > 1 else 1
    if not problem.batch and problem.m > rows:
        found.append(f"the batch is folded into {problem.m} rows: b is the same for all")
    if problem.batch:
        found.append(f"{problem.batch_size} products run as the third dimension of the grid")
    return found
