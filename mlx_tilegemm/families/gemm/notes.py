"""Notes on a product's call, for `explain`."""

from __future__ import annotations

from ...backends import Route
from ...dispatch import Decision
from ...machine.chips.record import Chip
from .problem import GemmProblem


def notes(problem: GemmProblem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    """Return what else is worth knowing about a product's call."""
    if decision.plan is None or route.backend is None:
        mixed = problem.a is not problem.b
        return ["MLX's ops cast operands of other dtypes into copies first"] * mixed
    found = []
    if problem.layout == "nn":
        found.append(
            "MLX copies an operand that is not row-major in memory, a view such as w.T, before the "
            "launch; pass w itself with transpose_a=True or transpose_b=True instead"
        )
    rows = problem.out_shape[-2] if len(problem.out_shape) > 1 else 1
    if not problem.batch and problem.m > rows:
        found.append(f"the batch is folded into {problem.m} rows: b is the same for all of it")
    if problem.batch:
        found.append(f"{problem.batch_size} products run as the third dimension of the grid")
    return found
