"""Time that MLX's own ops would take for a product: the candidate that every kernel has to beat."""

from __future__ import annotations

from ...machine.chips.record import Chip
from ...machine.mlx_products import price_gemm
from ...machine.price import Price
from .problem import GemmProblem


def price(problem: GemmProblem, chip: Chip) -> Price | None:
    """Return what MLX's ops would run for a product; None where they cannot stand in.

    They multiply integers on the CPU only, and their rows depend on how many there are.
    """
    if problem.is_integer or problem.batch_invariant:
        return None
    if 0 in (problem.m, problem.n, problem.k, problem.batch_size):
        return Price(path="fill", seconds=chip.launch_seconds)
    return price_gemm(problem.product, chip)
