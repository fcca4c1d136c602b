"""What `mx.matmul` and `mx.addmm` would take: MLX's rules for choosing among its GEMMs, priced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ..chips.record import Chip
from ..dtypes import FLOAT32, DType, promote
from ..plan import SIMD_WIDTH
from ..problem import GemmProblem
from .cost import DRAM_SHARE, TileWork, resident_threadgroups, seconds
from .counts import (
    GemmTile,
    gemm_work,
    with_dram_bytes,
    written_bytes,
)
from .fragment import ADDRESSING_REGISTERS, FRAGMENT
from .gemm import dram_bytes

PADDING_BYTES = 16
"""Padding of a row in threadgroup memory."""

NEURAL_SIMDGROUP = 32
"""Rows and columns of results of one simdgroup on neural accelerators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What MLX would run, and how long that is modelled to take.

    Attributes:
        path: MLX's kernel in words, for example ``steel-64x64x16-2x2``.
        seconds: Modelled time, copies included.
        copied_bytes: Bytes read and written by casts into copies.
        reduced: Float32 operands lose bits on the way: on neural accelerators MLX uses TF32.
    """

    path: str
    seconds: float
    copied_bytes: int = 0
    reduced: bool = False


def make_price(path: str, time: float, copied: int, reduced: bool) -> Price:
    """Return a price whose path also says what else is to be known."""
    notes = [", in TF32"] * reduced + [f", {copied} bytes of copies"] * bool(copied)
    return Price(path=path + "".join(notes), seconds=time, copied_bytes=copied, reduced=reduced)


def price_gemm(problem: GemmProblem, chip: Chip) -> Price:
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
    path, time = same_dtype_gemm(same, chip)
    copying, copied = casts_seconds(casts, chip)
    reduced = path.startswith("neural") and compute is FLOAT32
    return make_price(path, time + copying, copied, reduced)


def casts_seconds(casts: list[tuple[int, DType, DType]], chip: Chip) -> tuple[float, int]:
    """Return seconds and bytes of casting so many elements from a type to another."""
    real = [(n * (old.bytes + new.bytes)) for n, old, new in casts if old is not new]
    moved = sum(real)
    return len(real) * chip.launch_seconds + streaming_seconds(moved, chip), moved


def streaming_seconds(moved: float, chip: Chip) -> float:
    """Return the seconds of moving so many bytes to and from memory."""
    return moved / (DRAM_SHARE * chip.dram_bytes_per_second)


def same_dtype_gemm(problem: GemmProblem, chip: Chip) -> tuple[str, float]:
    """Return which kernel MLX runs for operands of one type, in words, and its seconds."""
    if problem.m == problem.n == problem.batch_size == 1 and problem.c is None:
        return "dot-product", _dot_product(problem, chip)
    if min(problem.m, problem.n) == 1:
        return "gemv", seconds(_gemv_work(problem, chip), chip)
    if _wide_gemv(problem, chip):
        return "gemv-wide", seconds(wide_gemv_work(problem, chip), chip)
    if neural_rate(problem.a, chip):
        return _neural_gemm(problem, chip)
    if _splits_k(problem, chip):
        return _split_k(problem, chip)
    tile = steel_tile(problem, chip)
    work = gemm_work(problem, tile, chip)
    return f"steel-{_tile_text(tile)}", seconds(work, chip)


def neural_rate(dtype: DType, chip: Chip) -> int:
    """Return multiply-adds a cycle of a core's neural accelerator; 0 where MLX does not use it."""
    return chip.neural_float32_fma_per_cycle if dtype is FLOAT32 else chip.neural_fma_per_cycle


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
        vector_bytes=(simdgroups - 1) * few * problem.k * problem.a.bytes,
        cache_bytes=per_tile,
        dram_bytes=dram_bytes(problem),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WideGemv:
    """How MLX multiplies 2 to 15 rows with a matrix that it reads once for up to five of them.

    Attributes:
        passes: Groups of rows, for each of which the matrix is read.
        rows: Rows of a group.
        lanes: Lanes that share a row of the matrix; a threadgroup has an eighth as many simdgroups
            and four rows of the matrix.
        in_turn: Groups that one threadgroup serves: all, where a wide matrix fills the GPU.
    """

    passes: int
    rows: int
    lanes: int
    in_turn: int


def wide_gemv(problem: GemmProblem) -> WideGemv:
    """Return how MLX's wide gemv parts the problem."""
    passes = ceil(problem.m / 5)
    return WideGemv(
        passes=passes,
        rows=ceil(problem.m / passes),
        lanes=32 if passes == 1 or problem.n <= 64 else 16,
        in_turn=passes if problem.n >= 65536 else 1,
    )


def wide_gemv_work(problem: GemmProblem, chip: Chip) -> TileWork:
    """Count what MLX's wide gemv does."""
    wide, results = wide_gemv(problem), 4
    simdgroups = wide.lanes // 8
    b_bytes = results * problem.k * problem.b.bytes
    a_bytes = wide.in_turn * wide.rows * problem.k * problem.a.bytes
    macs = wide.in_turn * wide.rows * results * problem.k
    work = TileWork(
        tiles=ceil(problem.n / results) * wide.passes // wide.in_turn * problem.batch_size,
        simdgroups=simdgroups,
        chains=wide.rows,
        issue_cycles=macs / SIMD_WIDTH * chip.alu_cycles,
        threadgroup_bytes=0,
        vector_bytes=(wide.in_turn - 1) * b_bytes,
        cache_bytes=b_bytes,
        dram_bytes=dram_bytes(problem),
        registers=64,
    )
    # The threadgroups of a core walk through the same rows, with no barrier among them.
    first = a_bytes / resident_threadgroups(work, chip)
    again = simdgroups * a_bytes - first
    return replace(
        work,
        cache_bytes=b_bytes + first,
        vector_bytes=work.vector_bytes + again,
        repeated_bytes=again,
    )


def _dot_product(problem: GemmProblem, chip: Chip) -> float:
    """Price partial sums of 16384 elements, their sum and its cast: three launches."""
    blocks = ceil(problem.k / 16384)
    bytes_each = problem.k / blocks * (problem.a.bytes + problem.b.bytes)
    work = TileWork(
        tiles=blocks,
        simdgroups=16,
        chains=4,
        issue_cycles=problem.k / blocks / SIMD_WIDTH * chip.alu_cycles,
        threadgroup_bytes=0,
        cache_bytes=bytes_each,
        dram_bytes=dram_bytes(problem),
    )
    return seconds(work, chip) + 2 * chip.launch_seconds


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
    return chip.launch_seconds + streaming_seconds(partials + written_bytes(problem), chip)


def _neural_gemm(problem: GemmProblem, chip: Chip) -> tuple[str, float]:
    """Price `matmul2d` kernels, whose operands come straight from memory."""
    largest = max(problem.m, problem.n)
    deep = problem.k >= 3 * largest or (largest <= 1024 and problem.k > 2 * largest)
    if problem.batch_size == 1 and deep:
        return _neural_split_k(problem, chip)
    block_m = 64 if chip.size_class in ("s", "d") else 128
    work = _neural_work(problem, block_m, 128, chip)
    return f"neural-{block_m}x128", seconds(work, chip)


def _neural_split_k(problem: GemmProblem, chip: Chip) -> tuple[str, float]:
    m, n, k = problem.m, problem.n, problem.k
    block = 64 if (m + n) // 2 < 512 or k <= 4096 else 128
    share = k // 2 if k <= 1024 else 1024 if k <= 2048 else 2048 if k <= 4096 else 4096
    splits = ceil(k / share)
    part = replace(problem, k=share, out=FLOAT32, c=None)
    time = _shares(_neural_work(part, block, block, chip), part, splits, chip)
    return f"neural-{block}x{block}-split{splits}", time + _adding(problem, splits, chip)


def _neural_work(problem: GemmProblem, block_m: int, block_n: int, chip: Chip) -> TileWork:
    tiles = (ceil(problem.m / block_m), ceil(problem.n / block_n))
    # Simdgroups of a tile that lie beyond the edge do nothing.
    rows = ceil(problem.m / NEURAL_SIMDGROUP) * NEURAL_SIMDGROUP / tiles[0]
    columns = ceil(problem.n / NEURAL_SIMDGROUP) * NEURAL_SIMDGROUP / tiles[1]
    macs = rows * columns * problem.k
    work = TileWork(
        tiles=tiles[0] * tiles[1] * problem.batch_size,
        simdgroups=block_m * block_n // NEURAL_SIMDGROUP**2,
        chains=4,
        # Given as cycles of four schedulers, of which the accelerator is independent.
        issue_cycles=macs / neural_rate(problem.a, chip) * chip.schedulers,
        threadgroup_bytes=0,
        cache_bytes=problem.k * (rows + columns) * problem.a.bytes,
        dram_bytes=0,
        waits=ceil(problem.k / 64),
        registers=64,
        barriers=False,
    )
    return with_dram_bytes(work, problem, tiles, 4, chip)
