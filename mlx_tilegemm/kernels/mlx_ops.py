"""What MLX's own ops would take for a problem: the candidate that every kernel has to beat.

MLX's rules (0.32) for choosing among its kernels are stated in `mlx_gemm` and `mlx_sdpa`, and what
they choose is priced with the same counts and the same model as the kernels of this library.
Operands of other dtypes are priced with the copies that MLX makes of them.
"""

from __future__ import annotations

from ..chips.record import Chip
from ..problem import AttentionProblem, GemmProblem, Problem
from .mlx_gemm import Price, price_gemm
from .mlx_sdpa import price_attention

__all__ = ["Price", "price"]


def price(problem: Problem, chip: Chip) -> Price | None:
    """Return what MLX's ops would run for the problem; None where they cannot stand in.

    They multiply integers on the CPU only, and their rows depend on how many there are. Gradients
    of attention are not priced: MLX computes them from what its own forward pass kept.
    """
    if isinstance(problem, AttentionProblem):
        return price_attention(problem, chip)
    if not isinstance(problem, GemmProblem) or problem.is_integer or problem.batch_invariant:
        return None
    if 0 in (problem.m, problem.n, problem.k, problem.batch_size):
        return Price(path="fill", seconds=chip.launch_seconds)
    return price_gemm(problem, chip)
