"""Price of `mx.fast.scaled_dot_product_attention`, by MLX's rules for choosing its kernels."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from math import ceil

from ...core.caches import latest
from ...core.dtypes import BOOL, FLOAT32, DType, promote
from ...core.plan import SIMD_WIDTH
from ...machine.chips.record import Chip
from ...machine.cost import TileWork, seconds
from ...machine.fragment import ADDRESSING_REGISTERS, FRAGMENT
from ...machine.mlx_products import (
    PADDING_BYTES,
    casts_seconds,
    neural_rate,
    same_dtype_gemm,
    streaming_seconds,
)
from ...machine.price import Price, make_price
from ...machine.products import Product
from .problem import AttentionProblem, MaskKind
from .work import AttentionTile, attention_bytes, attention_work, mean_steps

FULL_HEAD_DIMS = frozenset({64, 72, 80, 96, 128})
"""Head dims of the fused kernel for more than eight rows; D and Dv are alike."""

VECTOR_HEAD_DIMS = frozenset({(64, 64), (96, 64), (96, 96), (128, 128), (192, 128), (256, 256)})
"""Pairs of D and Dv of the fused kernel for up to eight rows."""

NEURAL_HEAD_DIMS = frozenset({64, 96, 128, 256})
NEURAL_ONLY_HEAD_DIM = 256
NEURAL_ONLY_ROWS = 1024
"""This head dim is fused on neural accelerators only: causal, from so many rows on."""

NEURAL_ATTENTION_SHARE = 0.45
"""Share of the neural accelerators' rate that fused attention reaches: 24 to 31 of 66 TFLOPS were
measured on an M5 Max. The softmax between the products runs on the shader cores."""

VECTOR_KEY_INSTRUCTIONS = 24
"""Instructions of the kernel for few rows for one key beside products and exponentials: addresses,
loads, the sum over the lanes, the running maximum and sum. By reading its published text."""

CHAIN = "chain"
NEURAL = "sdpa-neural"

CHAIN_PASSES = 8
"""Times all scores are read or written by the ops of a chain that no fused kernel serves."""


@latest
def natural_type(problem: AttentionProblem) -> DType | None:
    """Return the type of 16 bits that MLX's op keeps, loses nothing by and rounds to; or None."""
    given = (problem.q, problem.k, problem.v, problem.q_pe, problem.k_pe)
    natural = reduce(promote, (dtype for dtype in given if dtype is not None))
    added = problem.mask if problem.mask_kind is MaskKind.ADDITIVE else None
    fitting = all(
        dtype is None or promote(natural, dtype) is natural for dtype in (added, problem.sinks)
    )
    if problem.exact or natural is FLOAT32 or natural is not problem.out or not fitting:
        return None
    return natural


def serves_attention(problem: AttentionProblem, chip: Chip) -> bool:
    """Whether a kernel of `mx.fast.scaled_dot_product_attention` gives what is asked for.

    There is none with a log-sum-exp or without the softmax. Sizes without a fused kernel do not
    count: they are a chain of ops.
    """
    has_rows = problem.return_lse or problem.return_norm
    if not problem.softmax or has_rows or not problem.kv_len:
        return False
    seen = _as_mlx_has_it(problem)
    return _has_vector_kernel(seen) or _has_full_kernel(seen, chip)


@latest
def _as_mlx_has_it(problem: AttentionProblem) -> AttentionProblem:
    """Return the attention that MLX's op is called for: of one type, with an array for a window."""
    compute = natural_type(problem) or FLOAT32
    is_causal = problem.mask_kind is MaskKind.CAUSAL
    seen = replace(
        problem,
        q=compute,
        k=compute,
        v=compute,
        out=compute,
        q_len=min(problem.q_len, problem.kv_len) if is_causal else problem.q_len,
        head_dim=problem.head_dim + problem.pe_dim,
        pe_dim=0,
        num_pe_heads=0,
        q_pe=None,
        k_pe=None,
        window=None,
    )
    if problem.window is None:
        return seen
    shape = (1, 1, seen.q_len, seen.kv_len)
    return replace(seen, mask_kind=MaskKind.BOOLEAN, mask=BOOL, mask_shape=shape)


def _has_vector_kernel(problem: AttentionProblem) -> bool:
    shared = problem.num_heads // problem.num_kv_heads
    few_rows = problem.q_len <= 8 and problem.q_len <= problem.kv_len
    dims = (problem.head_dim, problem.value_dim)
    return few_rows and problem.q_len * shared <= 32 and dims in VECTOR_HEAD_DIMS


def _has_full_kernel(problem: AttentionProblem, chip: Chip) -> bool:
    if problem.q_len <= 8 or problem.head_dim != problem.value_dim:
        return False
    return problem.head_dim in FULL_HEAD_DIMS or (
        problem.head_dim == NEURAL_ONLY_HEAD_DIM
        and problem.q_len >= NEURAL_ONLY_ROWS
        and problem.mask_kind is MaskKind.CAUSAL
        and neural_rate(problem.q, chip) > 0
    )


def _operands(problem: AttentionProblem) -> list[tuple[int, DType]]:
    """Return elements and type of every operand that is multiplied."""
    added = ("mask", "sinks")
    return [(one.elements, one.dtype) for one in problem.operands if one.name not in added]


def price_attention(problem: AttentionProblem, chip: Chip) -> Price:
    """Price the fused attention where it serves, else the chain of ops, and the casts before it."""
    if 0 in problem.out_shape or problem.kv_len == 0:
        return Price(path="fill", seconds=chip.launch_seconds)
    fused = serves_attention(problem, chip)
    compute = (natural_type(problem) if fused else None) or FLOAT32
    casts = [(elements, dtype, compute) for elements, dtype in _operands(problem)]
    out = problem.results[0]
    casts += [(out.elements, compute, problem.out)] * fused
    copying, copied = casts_seconds(casts, chip)
    if fused:
        path, time = _fused_attention(_as_mlx_has_it(problem), chip)
        time += _making_operands(problem, compute, chip)
    else:
        path, time = _chain(replace(problem, q=compute, k=compute, v=compute), chip)
    # The weights are float32 in the fused kernel, too, whatever the type of the operands.
    reduced = path in (CHAIN, NEURAL) and neural_rate(compute, chip) > 0
    return make_price(path, time + copying, copied, reduced)


def _making_operands(problem: AttentionProblem, compute: DType, chip: Chip) -> float:
    """Price what makes operands of MLX's op: longer q and k, a window's mask, rows of a mask."""
    launches, moved = 0, 0
    if problem.pe_dim:
        longer = problem.head_dim + problem.pe_dim
        rows = (problem.num_heads * problem.q_len, problem.num_kv_heads * problem.kv_len)
        launches += 2
        moved += 2 * problem.batch * sum(rows) * longer * compute.bytes
    if problem.window is not None:
        launches += 3
        moved += 6 * problem.q_len * problem.kv_len
    if problem.mask is not None:
        # Rows that see nothing are found, kept from the op and set to 0.
        launches += 4
        moved += 3 * problem.nbytes("mask") + 2 * problem.results[0].nbytes
    return launches * chip.launch_seconds + streaming_seconds(moved, chip)


def _fused_attention(problem: AttentionProblem, chip: Chip) -> tuple[str, float]:
    if _has_vector_kernel(problem):
        return _vector_attention(problem, chip)
    if neural_rate(problem.q, chip) and problem.head_dim in NEURAL_HEAD_DIMS:
        return NEURAL, _neural_attention(problem, chip)
    return "sdpa-full", seconds(_full_attention_work(problem, chip), chip)


def _vector_attention(problem: AttentionProblem, chip: Chip) -> tuple[str, float]:
    shared = problem.num_heads // problem.num_kv_heads
    two_passes = (chip.size_class in ("d", "s") and problem.kv_len >= 1024) or (
        shared > 1 and problem.kv_len >= 4096
    )
    rows = problem.batch * problem.num_heads * problem.q_len
    if not two_passes:
        work = _vector_work(problem, chip, tiles=rows, simdgroups=32, rows=1, keys_apart=32)
        return "sdpa-vector-1-pass", seconds(work, chip)
    simdgroups = shared * problem.q_len
    blocks = key_blocks(problem.kv_len, simdgroups, chip)
    work = _vector_work(
        problem,
        chip,
        tiles=rows // simdgroups * blocks,
        simdgroups=simdgroups,
        rows=simdgroups,
        keys_apart=blocks,
    )
    shares = 2 * rows * blocks * (problem.value_dim * problem.q.bytes + 8)
    adding = chip.launch_seconds + streaming_seconds(shares, chip)
    return "sdpa-vector-2-pass", seconds(work, chip) + adding


def key_blocks(keys: int, simdgroups: int, chip: Chip) -> int:
    """Return into how many blocks MLX parts the keys among threadgroups."""
    if chip.size_class == "s":
        if keys <= 1024 or simdgroups <= 4:
            return 64
        return next(
            (n for n, most in ((128, 8192), (256, 32768), (512, 65536)) if keys <= most), 1024
        )
    if chip.size_class != "d":
        return 64 if simdgroups >= 4 else 32
    if simdgroups <= 2 and keys > 8192:
        return 256
    if simdgroups < 6 or keys < 16384:
        return 128
    return 512 if keys < 65536 else 1024


def _vector_work(
    problem: AttentionProblem,
    chip: Chip,
    *,
    tiles: int,
    simdgroups: int,
    rows: int,
    keys_apart: int,
) -> TileWork:
    """Count an attention whose simdgroups each meet one row of q with one key at a time.

    Args:
        problem: The attention.
        chip: Where it runs.
        tiles: Threadgroups.
        simdgroups: Simdgroups of a threadgroup.
        rows: Rows of q of a threadgroup; what is loaded for one is loaded again for the others.
        keys_apart: Every how manyth key a simdgroup meets.
    """
    steps = ceil(problem.kv_len / keys_apart)
    products = (problem.head_dim + 2 * problem.value_dim) / SIMD_WIDTH
    instructions = products + VECTOR_KEY_INSTRUCTIONS + 2 * chip.exp2_cycles
    row_bytes = problem.head_dim * problem.k.bytes + problem.value_dim * problem.v.bytes
    loaded = simdgroups * steps * row_bytes
    return TileWork(
        tiles=tiles,
        simdgroups=simdgroups,
        chains=4,
        issue_cycles=simdgroups * steps * instructions * chip.alu_cycles,
        threadgroup_bytes=0,
        fragment_bytes=loaded,
        cache_bytes=loaded / rows,
        repeated_bytes=loaded - loaded / rows,
        dram_bytes=attention_bytes(problem),
        waits=steps,
        registers=ADDRESSING_REGISTERS + ceil((problem.head_dim + problem.value_dim) / 16),
        barriers=False,
    )


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
        reread=True,
    )
    return attention_work(problem, tile, chip)


def _neural_attention(problem: AttentionProblem, chip: Chip) -> float:
    """Price by the measured share of the accelerators' rate."""
    rate = neural_rate(problem.q, chip)
    block_q, block_kv = 64, 32
    keys = mean_steps(problem, block_q, block_kv) * block_kv
    blocks = ceil(problem.q_len / block_q) * problem.num_heads * problem.batch
    work = TileWork(
        tiles=blocks,
        simdgroups=8 if problem.head_dim == NEURAL_ONLY_HEAD_DIM else 4,
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
    time = first + second + 2 * chip.launch_seconds + streaming_seconds(elementwise, chip)
    return CHAIN, time + _positional_scores(problem, chip)


def _positional_scores(problem: AttentionProblem, chip: Chip) -> float:
    """Price the product of the positional parts, and adding it to the scores."""
    if not problem.pe_dim:
        return 0.0
    heads = problem.batch * problem.num_pe_heads
    rows = problem.batch * problem.num_heads * problem.q_len
    gemm = _chain_gemm(problem, chip, rows, problem.kv_len, problem.pe_dim, heads)
    added = 2 * rows * problem.kv_len * problem.q.bytes
    return gemm + chip.launch_seconds + streaming_seconds(added, chip)


def _chain_gemm(
    problem: AttentionProblem, chip: Chip, rows: int, n: int, k: int, heads: int
) -> float:
    """Price one of the two products, its batch of heads folded into the rows."""
    gemm = Product(
        m=rows,
        n=n,
        k=k,
        a=problem.q,
        b=problem.k,
        out=problem.q,
        transpose_b=k in (problem.head_dim, problem.pe_dim),
    )
    extra = (heads - 1) * k * n * problem.k.bytes
    return same_dtype_gemm(gemm, chip)[1] + streaming_seconds(extra, chip)
