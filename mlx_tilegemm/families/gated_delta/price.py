"""Time that MLX's own ops would take, and mlx-lm's own kernel: what every kernel has to beat."""

from __future__ import annotations

from ...core.dtypes import FLOAT32
from ...core.plan import SIMD_WIDTH
from ...machine.chips.record import Chip
from ...machine.cost import TileWork, seconds
from ...machine.mlx_products import casts_seconds
from ...machine.price import Price, make_price
from .fallback import fused_is_exact
from .kernels import delta_recurrent
from .problem import DeltaProblem
from .spec import token_bytes

HEAD_DIM = 128
"""Of keys and values that MLX's kernel is compiled for."""

HEADS = frozenset({(16, 16), (16, 32), (16, 48), (16, 64), (24, 24), (32, 32)})
"""Heads of keys and values that MLX's kernel is compiled for."""

MLX_LM = delta_recurrent.Counts(element=8, halving=4, token=24)
"""Instructions of mlx-lm's kernels: their sums are of one float."""

STEP_LAUNCHES = 8
"""Launches of one token where MLX has no kernel: decay, two products, two sums and what is between
them."""


def price(problem: DeltaProblem, chip: Chip) -> Price:
    """Return what MLX's own ops would run."""
    if problem.is_empty:
        return Price(path="fill", seconds=chip.launch_seconds)
    casts = [(one.elements, one.dtype, FLOAT32) for one in problem.operands[:5]]
    casts.append((problem.results[0].elements, FLOAT32, problem.y))
    copying, copied = casts_seconds(casts, chip)
    preparing = (problem.log_decay + 4 * problem.normalize) * chip.launch_seconds
    path, time = _stepwise(problem, chip)
    return make_price(path, time + copying + preparing, copied, reduced=False)


def has_kernel(problem: DeltaProblem) -> bool:
    """Whether MLX's own kernel serves a problem, and as exactly as its ops do."""
    dims = (problem.key_dim, problem.value_dim) == (HEAD_DIM, HEAD_DIM)
    heads = (problem.key_heads, problem.value_heads) in HEADS
    return dims and heads and not problem.mask and fused_is_exact(problem)


def mlx_lm_kernel(problem: DeltaProblem, chip: Chip) -> Price | None:
    """Return what mlx-lm's own kernel would take; None where it has none for the rule.

    It goes token by token, and gives a row of the state to a simdgroup, or eight rows where there
    is one decay for a head of 128, no mask, and float32 state and decay: both are shapes that
    `delta_recurrent` has.
    """
    p = problem
    if p.is_empty or p.key_dim % SIMD_WIDTH or p.every or p.log_decay or p.normalize:
        return None
    packed = p.key_dim == HEAD_DIM and p.value_dim % 8 == 0 and p.gamma is FLOAT32
    packed = packed and not (p.mask or p.vector_gate)
    path, lanes, simdgroups = (
        ("mlx-lm for packed rows", 4, 2) if packed else ("mlx-lm", SIMD_WIDTH, 4)
    )
    config = delta_recurrent.Config(lanes=lanes, simdgroups=simdgroups)
    return Price(path=path, seconds=delta_recurrent.cost(problem, config, chip, MLX_LM))


def _stepwise(problem: DeltaProblem, chip: Chip) -> tuple[str, float]:
    state_bytes = problem.matrices * problem.key_dim * problem.value_dim * FLOAT32.bytes
    if not has_kernel(problem):
        # Each launch of a token reads or writes the state, or both.
        moved = 2 * state_bytes / chip.dram_bytes_per_second
        return "ops-for-each-token", problem.length * STEP_LAUNCHES * (chip.launch_seconds + moved)
    rows = problem.matrices * problem.value_dim
    work = TileWork(
        tiles=rows // 4,
        simdgroups=4,
        chains=1,
        issue_cycles=4 * problem.length * 60 * chip.alu_cycles,
        threadgroup_bytes=0,
        cache_bytes=problem.length * token_bytes(problem),
        dram_bytes=problem.least_bytes(),
        waits=problem.length,
        barriers=False,
    )
    return "gated-delta", seconds(work, chip)
