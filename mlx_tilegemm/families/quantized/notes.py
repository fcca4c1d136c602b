"""Notes on a product with a quantized weight, for `explain`."""

from __future__ import annotations

from ...backends import Route
from ...dispatch import Decision
from ...machine.chips.record import Chip
from .problem import QuantizedProblem


def notes(problem: QuantizedProblem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    """Return what else is worth knowing about a call."""
    stored = problem.weight_bytes * 8 / max(1, problem.elements("w"))
    found = [f"the weight has {stored:.3g} bits an element, its scales included"]
    if decision.plan is None or route.backend is None:
        compute = problem.computed
        others = {problem.x, *([problem.scales, problem.biases] if problem.biases else [])}
        mixed = any(one is not compute for one in others)
        return found + [f"MLX's op casts operands into copies of {compute} first"] * mixed
    rows = problem.out_shape[-2] if len(problem.out_shape) > 1 else 1
    if not problem.batch and problem.m > rows:
        found.append(f"the batch is folded into {problem.m} rows: the weight is the same for all")
    if problem.batch:
        found.append(f"{problem.batch_size} products run as the third dimension of the grid")
    return found
