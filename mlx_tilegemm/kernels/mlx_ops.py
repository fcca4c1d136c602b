"""What MLX's own ops would take for a problem: the candidate that every kernel has to beat.

States MLX's rules (0.32) for choosing among its kernels, and prices what they choose with the same
counts and the same model as the kernels of this library. Operands of other dtypes are priced with
the copies that MLX makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ..chips.record import Chip
from ..dtypes import FLOAT32, DType, promote
from ..plan import SIMD_WIDTH
from ..problem import AttentionProblem, GemmProblem, MaskKind, Problem
from .cost import DRAM_SHARE, TileWork, seconds
from .counts import (
    FRAGMENT,
    AttentionTile,
    GemmTile,
    attention_bytes,
    attention_work,
    gemm_work,
    mean_steps,
    with_dram_bytes,
    written_bytes,
)

ADDRESSING_REGISTERS = 24
PADDING_BYTES = 16
"""Padding of a row in threadgroup memory."""

FULL_HEAD_DIMS = frozenset({64, 72, 80, 96, 128})
"""Head dims of the fused kernel for more than eight rows; D and Dv are alike."""

VECTOR_HEAD_DIMS = frozenset({(64, 64), (96, 64), (96, 96), (128, 128), (192, 128), (256, 256)})
"""Pairs of D and Dv of the fused kernel for up to eight rows."""

NEURAL_HEAD_DIMS = frozenset({64, 96, 128})
NEURAL_ATTENTION_SHARE = 0.45
"""Share of the neural accelerators' rate that fused attention reaches: 24 to 31 of 66 TFLOPS were
measured on an M5 Max. The softmax between the products runs on the shader cores."""

CHAIN_PASSES = 8
"""Times all scores are read or written by the ops of a chain that no fused kernel serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What MLX would run, and how long that is modelled to take.

    Attributes:
        path: MLX's kernel in words, for example ``steel-64x64x16-2x2``.
        seconds: Modelled time, copies included.
        copied_bytes: Bytes read and written by casts into copies.
    """

    path: str
    seconds: float
    copied_bytes: int = 0


def price(problem: Problem, chip: Chip) -> Price | None:
    """Return what MLX's ops would run for the problem; None where they cannot stand in.

    They multiply integers on the CPU only, and their rows depend on how many there are.
    """
    if isinstance(problem, AttentionProblem):
        return _attention(problem, chip)
    if problem.is_integer or problem.batch_invariant:
        return None
    if 0 in (problem.m, problem.n, problem.k, problem.batch_size):
        return Price(path="fill", seconds=chip.launch_seconds)
    return _gemm(problem, chip)


def _gemm(problem: GemmProblem, chip: Chip) -> Price:
    """Price `mx.matmul` or `mx.addmm`, and the casts around it."""
    compute = promote(problem.a, problem.b)
    compute = promote(compute, problem.c) if problem.c else compute
    out_elements = problem.batch_size * problem.m * problem.n
    casts = []
    if problem.out is not compute:
        # One rounding to another type is had from float32 only.
        compute = FLOAT32
        casts.append((out_elements, compute, problem.out))
    casts += [(problem.a_elements, problem.a, compute), (problem.b_elements, problem.b, compute)]
    if problem.c:
        casts.append((problem.c_elements, problem.c, compute))
    same = replace(problem, a=compute, b=compute, c=problem.c and compute, out=compute)
    path, time = _same_dtype_gemm(same, chip)
    copying, copied = _casts(casts, chip)
    suffix = f", {copied} bytes of copies" if copied else ""
    return Price(path=path + suffix, seconds=time + copying, copied_bytes=copied)


def _casts(casts: list[tuple[int, DType, DType]], chip: Chip) -> tuple[float, int]:
    """Return seconds and bytes of casting so many elements from a type to another."""
    real = [(n * (old.bytes + new.bytes)) for n, old, new in casts if old is not new]
    moved = sum(real)
    return len(real) * chip.launch_seconds + _streaming(moved, chip), moved


def _streaming(moved: float, chip: Chip) -> float:
    return moved / (DRAM_SHARE * chip.dram_bytes_per_second)


def _same_dtype_gemm(problem: GemmProblem, chip: Chip) -> tuple[str, float]:
    if min(problem.m, problem.n) == 1:
        return "gemv", seconds(_gemv_work(problem, chip), chip)
    if _wide_gemv(problem, chip):
        return "gemv-wide", seconds(_gemv_work(problem, chip), chip)
    if chip.neural_fma_per_cycle:
        return _neural_gemm(problem, chip)
    if _splits_k(problem, chip):
        return _split_k(problem, chip)
    tile = steel_tile(problem, chip)
    work = gemm_work(problem, tile, chip)
    return f"steel-{_tile_text(tile)}", seconds(work, chip)


def _tile_text(tile: GemmTile) -> str:
    block = f"{tile.block_m}x{tile.block_n}x{tile.block_k}"
    return f"{block}-{tile.simdgroups_m}x{tile.simdgroups_n}"


def _wide_gemv(problem: GemmProblem, chip: Chip) -> bool:
    return (
        chip.generation >= 15
        and problem.a.bytes == 2
        and problem.layout == "nt"
        and problem.m <= 15
        and problem.k % 4 == 0
    )


def _gemv_work(problem: GemmProblem, chip: Chip) -> TileWork:
    """Count a product of few rows that reads its matrix once: 32 results a threadgroup."""
    simdgroups, results = 8, 32
    few, many = sorted((problem.m, problem.n))
    tiles = ceil(many / results) * problem.batch_size
    per_tile = problem.k * (results * problem.b.bytes + few * problem.a.bytes)
    return TileWork(
        tiles=tiles,
        simdgroups=simdgroups,
        chains=4,
        issue_cycles=few * results * problem.k / SIMD_WIDTH * chip.alu_cycles,
        threadgroup_bytes=0,
        cache_bytes=per_tile,
        dram_bytes=problem.a_elements * problem.a.bytes
        + problem.b_elements * problem.b.bytes
        + written_bytes(problem),
    )


def steel_tile(problem: GemmProblem, chip: Chip) -> GemmTile:
    """Return the tile that MLX's table gives for the problem."""
    half = problem.a.bytes == 2
    return _steel_tile(_steel_sizes(problem, chip, half), problem)


def _steel_sizes(problem: GemmProblem, chip: Chip, half: bool) -> tuple[int, int, int, int, int]:
    medium, narrow = (64, 64, 16, 2, 2), (64, 32, 32, 2, 2)
    tall, wide = (64, 64, 16, 1, 2), (32, 64, 16, 1, 2)
    nt = problem.layout == "nt"
    if chip.size_class == "g":
        if nt:
            return narrow
        return tall if half else medium
    if chip.size_class != "d":
        return medium
    if problem.batch_size * problem.m * problem.n >= 1 << 20:
        if not half:
            return medium
        if 2 * max(problem.m, problem.n) > problem.k:
            return tall
        return narrow if nt else wide
    if half:
        return narrow if nt else tall
    return wide if nt else narrow


def _steel_tile(sizes: tuple[int, int, int, int, int], problem: GemmProblem) -> GemmTile:
    block_m, block_n, block_k, simdgroups_m, simdgroups_n = sizes
    rows, columns = block_m // (FRAGMENT * simdgroups_m), block_n // (FRAGMENT * simdgroups_n)
    padding = PADDING_BYTES // problem.a.bytes
    a_tile = _padded(block_m, block_k, problem.transpose_a, padding)
    b_tile = _padded(block_k, block_n, problem.transpose_b, padding)
    return GemmTile(
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        simdgroups_m=simdgroups_m,
        simdgroups_n=simdgroups_n,
        staged=True,
        registers=2 * (rows * columns + rows + columns) + ADDRESSING_REGISTERS,
        threadgroup_memory=(a_tile + b_tile) * problem.a.bytes,
    )


def _padded(rows: int, columns: int, transposed: bool, padding: int) -> int:
    return columns * (rows + padding) if transposed else rows * (columns + padding)


def _splits_k(problem: GemmProblem, chip: Chip) -> bool:
    limit = 2048 if chip.size_class in ("s", "d") else 1024
    return (
        problem.batch_size == 1
        and ceil(problem.m / 16) * ceil(problem.n / 16) <= limit
        and problem.k // 16 >= 8
        and problem.k >= max(problem.m, problem.n)
    )


def _split_k(problem: GemmProblem, chip: Chip) -> tuple[str, float]:
    block_m, block_n = (16 if size < 40 else 32 for size in (problem.m, problem.n))
    share = problem.k // 16 // (ceil(problem.m / 32) * ceil(problem.n / 32))
    splits = min(max(2, 1 << max(0, share - 1).bit_length()), 32)
    tile = _steel_tile((block_m, block_n, 16, 2, 2), problem)
    part = replace(problem, k=ceil(problem.k / splits), out=FLOAT32, c=None)
    time = _shares(gemm_work(part, tile, chip), part, splits, chip)
    path = f"steel-split-k-{_tile_text(tile)}-split{splits}"
    return path, time + _adding(problem, splits, chip)


def _shares(work: TileWork, part: GemmProblem, splits: int, chip: Chip) -> float:
    """Return the seconds of as many products at a time as there are shares of k."""
    return seconds(
        replace(work, tiles=work.tiles * splits, dram_bytes=work.dram_bytes * splits), chip
    )


def _adding(problem: GemmProblem, splits: int, chip: Chip) -> float:
    partials = 4 * problem.m * problem.n * splits
    return chip.launch_seconds + _streaming(partials + written_bytes(problem), chip)


def _neural_gemm(problem: GemmProblem, chip: Chip) -> tuple[str, float]:
    """Price `matmul2d` kernels: tiles of up to 128 by 128, operands straight from memory."""
    splits = 1
    if problem.batch_size == 1 and problem.k >= 3 * max(problem.m, problem.n):
        splits = min(32, max(1, problem.k // 2048))
    part = replace(problem, k=ceil(problem.k / splits))
    block_m, block_n = (64 if problem.m <= 64 else 128), 128
    rate = chip.neural_float32_fma_per_cycle if problem.a is FLOAT32 else chip.neural_fma_per_cycle
    tiles = (ceil(part.m / block_m), ceil(part.n / block_n))
    work = TileWork(
        tiles=tiles[0] * tiles[1] * part.batch_size,
        simdgroups=16,
        chains=4,
        # Given as cycles of four schedulers, of which the accelerator is independent.
        issue_cycles=block_m * block_n * part.k / rate * chip.schedulers,
        threadgroup_bytes=0,
        cache_bytes=part.k * (block_m + block_n) * part.a.bytes,
        dram_bytes=0,
        waits=ceil(part.k / 64),
        registers=64,
        barriers=False,
    )
    work = with_dram_bytes(work, part, tiles, 4, chip)
    if splits == 1:
        return f"neural-{block_m}x{block_n}", seconds(work, chip)
    time = _shares(work, part, splits, chip) + _adding(problem, splits, chip)
    return f"neural-{block_m}x{block_n}-split{splits}", time


def serves_attention(problem: AttentionProblem) -> bool:
    """Whether `mx.fast.scaled_dot_product_attention` gives the result that is asked for.

    It has no log-sum-exp and no chain without softmax, rounds to the promotion of its operands, and
    averages v over rows that have nothing to attend to, where here they are zero. Sizes without a
    fused kernel do not count: it would round all scores to the operands' type.
    """
    if not problem.softmax or problem.return_lse or problem.out is not _compute(problem):
        return False
    if not (_has_vector_kernel(problem) or _has_full_kernel(problem)):
        return False
    if problem.mask_kind is MaskKind.CAUSAL:
        return problem.q_len <= problem.kv_len
    return problem.mask_kind is MaskKind.NONE and problem.kv_len > 0


def _has_vector_kernel(problem: AttentionProblem) -> bool:
    shared = problem.num_heads // problem.num_kv_heads
    few_rows = problem.q_len <= 8 and problem.q_len <= problem.kv_len
    dims = (problem.head_dim, problem.value_dim)
    return few_rows and problem.q_len * shared <= 32 and dims in VECTOR_HEAD_DIMS


def _has_full_kernel(problem: AttentionProblem) -> bool:
    same_dim = problem.head_dim == problem.value_dim
    return problem.q_len > 8 and same_dim and problem.head_dim in FULL_HEAD_DIMS


def _compute(problem: AttentionProblem) -> DType:
    return promote(promote(problem.q, problem.k), problem.v)


def _attention(problem: AttentionProblem, chip: Chip) -> Price:
    if 0 in problem.out_shape or problem.kv_len == 0:
        return Price(path="fill", seconds=chip.launch_seconds)
    fused = serves_attention(problem)
    compute = _compute(problem) if fused else FLOAT32
    sizes = (problem.q_elements, problem.k_elements, problem.v_elements)
    dtypes = (problem.q, problem.k, problem.v)
    casts = [(n, dtype, compute) for n, dtype in zip(sizes, dtypes, strict=True)]
    copying, copied = _casts(casts, chip)
    same = replace(problem, q=compute, k=compute, v=compute)
    path, time = _fused_attention(same, chip) if fused else _chain(same, chip)
    suffix = f", {copied} bytes of copies" if copied else ""
    return Price(path=path + suffix, seconds=time + copying, copied_bytes=copied)


def _fused_attention(problem: AttentionProblem, chip: Chip) -> tuple[str, float]:
    if _has_vector_kernel(problem):
        return _vector_attention(problem, chip)
    if chip.neural_fma_per_cycle and problem.head_dim in NEURAL_HEAD_DIMS:
        return "sdpa-neural", _neural_attention(problem, chip)
    return "sdpa-full", seconds(_full_attention_work(problem, chip), chip)


def _vector_attention(problem: AttentionProblem, chip: Chip) -> tuple[str, float]:
    shared = problem.num_heads // problem.num_kv_heads
    two_passes = (chip.size_class in ("d", "s") and problem.kv_len >= 1024) or (
        shared > 1 and problem.kv_len >= 4096
    )
    launches = 2 if two_passes else 1
    time = launches * chip.launch_seconds + _streaming(attention_bytes(problem), chip)
    return f"sdpa-vector-{launches}-pass", time


def _full_attention_work(problem: AttentionProblem, chip: Chip) -> TileWork:
    size, head, value = problem.q.bytes, problem.head_dim, problem.value_dim
    block_q, block_kv = 32, 32 if head < 128 else 16
    padding = PADDING_BYTES // size
    kv_tile = max((block_kv + padding) * head, block_kv * (value + padding))
    tile = AttentionTile(
        simdgroups=block_q // FRAGMENT,
        block_kv=block_kv,
        staged=True,
        registers=2 * (ceil(value / FRAGMENT) + 3 * block_kv // FRAGMENT) + ADDRESSING_REGISTERS,
        threadgroup_memory=size * (block_q * (head + padding) + kv_tile),
    )
    work = attention_work(problem, tile, chip)
    # Unlike here, its rows of q stay in threadgroup memory and are read at every step.
    q_reads = mean_steps(problem, block_q, block_kv) * block_q * head * size
    return replace(work, threadgroup_bytes=work.threadgroup_bytes + q_reads, waits=2 * work.waits)


def _neural_attention(problem: AttentionProblem, chip: Chip) -> float:
    """Price by the measured share of the accelerators' rate."""
    rate = chip.neural_float32_fma_per_cycle if problem.q is FLOAT32 else chip.neural_fma_per_cycle
    block_q, block_kv = 64, 32
    keys = mean_steps(problem, block_q, block_kv) * block_kv
    blocks = ceil(problem.q_len / block_q) * problem.num_heads * problem.batch
    work = TileWork(
        tiles=blocks,
        simdgroups=4,
        chains=4,
        issue_cycles=block_q
        * keys
        * (problem.head_dim + problem.value_dim)
        / (NEURAL_ATTENTION_SHARE * rate)
        * chip.schedulers,
        threadgroup_bytes=0,
        cache_bytes=keys * problem.k.bytes * (problem.head_dim + problem.value_dim),
        dram_bytes=attention_bytes(problem),
        waits=keys / block_kv,
        barriers=False,
    )
    return seconds(work, chip)


def _chain(problem: AttentionProblem, chip: Chip) -> tuple[str, float]:
    """Price two GEMMs with all scores in memory between them."""
    heads = problem.batch * problem.num_kv_heads
    rows = problem.num_heads // problem.num_kv_heads * problem.q_len
    first = _chain_gemm(problem, chip, heads * rows, problem.kv_len, problem.head_dim, heads)
    second = _chain_gemm(problem, chip, heads * rows, problem.value_dim, problem.kv_len, heads)
    scores = problem.batch * problem.num_heads * problem.q_len * problem.kv_len
    # The two GEMMs account for one write and one read of the scores.
    elementwise = (CHAIN_PASSES - 2) * scores * problem.q.bytes
    return "chain", first + second + 2 * chip.launch_seconds + _streaming(elementwise, chip)


def _chain_gemm(
    problem: AttentionProblem, chip: Chip, rows: int, n: int, k: int, heads: int
) -> float:
    """Price one of the two products, its batch of heads folded into the rows."""
    gemm = GemmProblem(
        m=rows,
        n=n,
        k=k,
        batch=(),
        a=problem.q,
        b=problem.k,
        c=None,
        out=problem.q,
        transpose_a=False,
        transpose_b=k == problem.head_dim,
        c_rows=False,
        c_columns=False,
        scaled=False,
        out_shape=(rows, n),
    )
    extra = (heads - 1) * k * n * problem.k.bytes
    return _same_dtype_gemm(gemm, chip)[1] + _streaming(extra, chip)
