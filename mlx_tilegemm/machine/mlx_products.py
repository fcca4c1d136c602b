"""Price of `mx.matmul` and `mx.addmm`, by MLX's rules for choosing among its GEMMs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..core.dtypes import FLOAT32, DType, promote
from ..core.plan import SIMD_WIDTH
from .chips.record import Chip
from .cost import DRAM_SHARE, TileWork, resident_threadgroups, residents, seconds
from .fragment import FRAGMENT
from .price import Price, make_price
from .products import GemmTile, Product, dram_bytes, gemm_work, moved_bytes, written_bytes

PADDING_BYTES = 16
"""Padding of a row in threadgroup memory."""

STEEL_REGISTERS = 20
"""Registers beside the fragments of its tiled kernels, as Mesa's compiler for M1 has it."""

NEURAL_REGISTERS = 64
NEURAL_SIMDGROUP = 32
"""Rows and columns of results of one simdgroup on neural accelerators."""


def price_gemm(product: Product, chip: Chip) -> Price:
    """Price `mx.matmul` or `mx.addmm`, and the casts around it."""
    compute = promote(product.a, product.b)
    compute = promote(compute, product.c) if product.c else compute
    out_elements = product.batch_size * product.m * product.n
    casts = []
    if product.out is not compute:
        # One rounding to another type is had from float32 only.
        compute = FLOAT32
        casts.append((out_elements, compute, product.out))
    casts += [(product.a_elements, product.a, compute), (product.b_elements, product.b, compute)]
    if product.c:
        casts.append((product.c_elements, product.c, compute))
    same = product._replace(a=compute, b=compute, c=product.c and compute, out=compute)
    path, time = same_dtype_gemm(same, chip)
    copying, copied = casts_seconds(casts, chip)
    # TF32 holds 16-bit types as they are.
    reduced = path.startswith("neural") and FLOAT32 in (product.a, product.b)
    return make_price(path, time + copying, copied, reduced)


def casts_seconds(casts: list[tuple[int, DType, DType]], chip: Chip) -> tuple[float, int]:
    """Return seconds and bytes of casting so many elements from a type to another."""
    real = [(n * (old.bytes + new.bytes)) for n, old, new in casts if old is not new]
    moved = sum(real)
    return len(real) * chip.launch_seconds + streaming_seconds(moved, chip), moved


def streaming_seconds(moved: float, chip: Chip) -> float:
    """Return the seconds of moving so many bytes to and from memory."""
    return moved / (DRAM_SHARE * chip.dram_bytes_per_second)


def same_dtype_gemm(product: Product, chip: Chip) -> tuple[str, float]:
    """Return which kernel MLX runs for operands of one type, in words, and its seconds."""
    if product.m == product.n == product.batch_size == 1 and product.c is None:
        return "dot-product", _dot_product(product, chip)
    if min(product.m, product.n) == 1:
        return "gemv", seconds(_gemv_work(product, chip), chip)
    if _wide_gemv(product, chip):
        return "gemv-wide", seconds(wide_gemv_work(product, chip), chip)
    if neural_rate(product.a, chip):
        return _neural_gemm(product, chip)
    if _splits_k(product, chip):
        return _split_k(product, chip)
    tile = steel_tile(product, chip)
    work = gemm_work(product, tile, chip)
    return f"steel-{_tile_text(tile)}", seconds(work, chip)


def neural_rate(dtype: DType, chip: Chip) -> int:
    """Return multiply-adds a cycle of a core's neural accelerator; 0 where MLX does not use it."""
    return chip.neural_float32_fma_per_cycle if dtype is FLOAT32 else chip.neural_fma_per_cycle


def _tile_text(tile: GemmTile) -> str:
    block = f"{tile.block_m}x{tile.block_n}x{tile.block_k}"
    return f"{block}-{tile.simdgroups_m}x{tile.simdgroups_n}"


def _wide_gemv(product: Product, chip: Chip) -> bool:
    return (
        chip.generation >= 15
        and product.a.bytes == 2
        and product.layout == "nt"
        and product.m <= 15
        and product.k % 4 == 0
    )


def _gemv_work(product: Product, chip: Chip) -> TileWork:
    """Count a product of few rows that reads its matrix once: 32 results a threadgroup."""
    simdgroups, results = 8, 32
    few, many = sorted((product.m, product.n))
    tiles = ceil(many / results) * product.batch_size
    per_tile = product.k * (results * product.b.bytes + few * product.a.bytes)
    return TileWork(
        tiles=tiles,
        simdgroups=simdgroups,
        chains=4,
        issue_cycles=few * results * product.k / SIMD_WIDTH * chip.alu_cycles,
        threadgroup_bytes=0,
        vector_bytes=(simdgroups - 1) * few * product.k * product.a.bytes,
        cache_bytes=per_tile,
        dram_bytes=dram_bytes(product),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WideGemv:
    """Tiling of MLX's gemv for 2 to 15 rows, which reads the matrix once for up to five of them.

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


def wide_gemv(product: Product) -> WideGemv:
    """Return how MLX's wide gemv parts the product."""
    passes = ceil(product.m / 5)
    return WideGemv(
        passes=passes,
        rows=ceil(product.m / passes),
        lanes=32 if passes == 1 or product.n <= 64 else 16,
        in_turn=passes if product.n >= 65536 else 1,
    )


def wide_gemv_work(product: Product, chip: Chip) -> TileWork:
    """Count what MLX's wide gemv does."""
    wide, results = wide_gemv(product), 4
    simdgroups = wide.lanes // 8
    b_bytes = results * product.k * product.b.bytes
    a_bytes = wide.in_turn * wide.rows * product.k * product.a.bytes
    macs = wide.in_turn * wide.rows * results * product.k
    work = TileWork(
        tiles=ceil(product.n / results) * wide.passes // wide.in_turn * product.batch_size,
        simdgroups=simdgroups,
        chains=wide.rows,
        issue_cycles=macs / SIMD_WIDTH * chip.alu_cycles,
        threadgroup_bytes=0,
        vector_bytes=(wide.in_turn - 1) * b_bytes,
        cache_bytes=b_bytes,
        dram_bytes=dram_bytes(product),
        registers=64,
    )
    # The threadgroups of a core walk through the same rows, with no barrier among them.
    first = a_bytes / resident_threadgroups(work, chip)
    again = simdgroups * a_bytes - first
    return work._replace(
        cache_bytes=b_bytes + first,
        vector_bytes=work.vector_bytes + again,
        repeated_bytes=again,
    )


def _dot_product(product: Product, chip: Chip) -> float:
    """Price partial sums of 16384 elements, their sum and its cast: three launches."""
    blocks = ceil(product.k / 16384)
    bytes_each = product.k / blocks * (product.a.bytes + product.b.bytes)
    work = TileWork(
        tiles=blocks,
        simdgroups=16,
        chains=4,
        issue_cycles=product.k / blocks / SIMD_WIDTH * chip.alu_cycles,
        threadgroup_bytes=0,
        cache_bytes=bytes_each,
        dram_bytes=dram_bytes(product),
    )
    return seconds(work, chip) + 2 * chip.launch_seconds


def steel_tile(product: Product, chip: Chip) -> GemmTile:
    """Return the tile that MLX's table gives for the product."""
    half = product.a.bytes == 2
    return _steel_tile(_steel_sizes(product, chip, half), product)


def _steel_sizes(product: Product, chip: Chip, half: bool) -> tuple[int, int, int, int, int]:
    medium, narrow = (64, 64, 16, 2, 2), (64, 32, 32, 2, 2)
    tall, wide = (64, 64, 16, 1, 2), (32, 64, 16, 1, 2)
    nt = product.layout == "nt"
    if chip.size_class == "g":
        if nt:
            return narrow
        return tall if half else medium
    if chip.size_class != "d":
        return medium
    if product.batch_size * product.m * product.n >= 1 << 20:
        if not half:
            return medium
        if 2 * max(product.m, product.n) > product.k:
            return tall
        return narrow if nt else wide
    if half:
        return narrow if nt else tall
    return wide if nt else narrow


def _steel_tile(sizes: tuple[int, int, int, int, int], product: Product) -> GemmTile:
    block_m, block_n, block_k, simdgroups_m, simdgroups_n = sizes
    rows, columns = block_m // (FRAGMENT * simdgroups_m), block_n // (FRAGMENT * simdgroups_n)
    padding = PADDING_BYTES // product.a.bytes
    a_tile = _padded(block_m, block_k, product.transpose_a, padding)
    b_tile = _padded(block_k, block_n, product.transpose_b, padding)
    return GemmTile(
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        simdgroups_m=simdgroups_m,
        simdgroups_n=simdgroups_n,
        staged=True,
        registers=2 * (rows * columns + rows + columns) + STEEL_REGISTERS,
        threadgroup_memory=(a_tile + b_tile) * product.a.bytes,
    )


def _padded(rows: int, columns: int, transposed: bool, padding: int) -> int:
    return columns * (rows + padding) if transposed else rows * (columns + padding)


def _splits_k(product: Product, chip: Chip) -> bool:
    limit = 2048 if chip.size_class in ("s", "d") else 1024
    return (
        product.batch_size == 1
        and ceil(product.m / 16) * ceil(product.n / 16) <= limit
        and product.k // 16 >= 8
        and product.k >= max(product.m, product.n)
    )


def _split_k(product: Product, chip: Chip) -> tuple[str, float]:
    block_m, block_n = (16 if size < 40 else 32 for size in (product.m, product.n))
    share = product.k // 16 // (ceil(product.m / 32) * ceil(product.n / 32))
    splits = min(max(2, 1 << max(0, share - 1).bit_length()), 32)
    tile = _steel_tile((block_m, block_n, 16, 2, 2), product)
    part = product._replace(k=ceil(product.k / splits), out=FLOAT32, c=None)
    time = _shares(gemm_work(part, tile, chip), part, splits, chip)
    path = f"steel-split-k-{_tile_text(tile)}-split{splits}"
    return path, time + _adding(product, splits, chip)


def _shares(work: TileWork, part: Product, splits: int, chip: Chip) -> float:
    """Return the seconds of as many products at a time as there are shares of k."""
    all_shares = work._replace(tiles=work.tiles * splits, dram_bytes=work.dram_bytes * splits)
    return seconds(all_shares, chip)


def _adding(product: Product, splits: int, chip: Chip) -> float:
    partials = 4 * product.m * product.n * splits
    return chip.launch_seconds + streaming_seconds(partials + written_bytes(product), chip)


def _neural_gemm(product: Product, chip: Chip) -> tuple[str, float]:
    """Price `matmul2d` kernels, whose operands come straight from memory."""
    largest = max(product.m, product.n)
    deep = product.k >= 3 * largest or (largest <= 1024 and product.k > 2 * largest)
    if product.batch_size == 1 and deep:
        return _neural_split_k(product, chip)
    block_m = 64 if chip.size_class in ("s", "d") else 128
    work = _neural_work(product, block_m, 128, chip)
    return f"neural-{block_m}x128", seconds(work, chip)


def _neural_split_k(product: Product, chip: Chip) -> tuple[str, float]:
    m, n, k = product.m, product.n, product.k
    block = 64 if (m + n) // 2 < 512 or k <= 4096 else 128
    share = k // 2 if k <= 1024 else 1024 if k <= 2048 else 2048 if k <= 4096 else 4096
    splits = ceil(k / share)
    part = product._replace(k=share, out=FLOAT32, c=None)
    time = _shares(_neural_work(part, block, block, chip), part, splits, chip)
    return f"neural-{block}x{block}-split{splits}", time + _adding(product, splits, chip)


def _neural_work(product: Product, block_m: int, block_n: int, chip: Chip) -> TileWork:
    tiles = (ceil(product.m / block_m), ceil(product.n / block_n))
    # Simdgroups of a tile that lie beyond the edge do nothing.
    rows = ceil(product.m / NEURAL_SIMDGROUP) * NEURAL_SIMDGROUP / tiles[0]
    columns = ceil(product.n / NEURAL_SIMDGROUP) * NEURAL_SIMDGROUP / tiles[1]
    macs = rows * columns * product.k
    simdgroups = block_m * block_n // NEURAL_SIMDGROUP**2
    held = residents(simdgroups, NEURAL_REGISTERS, 0, chip)
    return TileWork(
        tiles=tiles[0] * tiles[1] * product.batch_size,
        simdgroups=simdgroups,
        chains=4,
        # Given as cycles of four schedulers, of which the accelerator is independent.
        issue_cycles=macs / neural_rate(product.a, chip) * chip.schedulers,
        threadgroup_bytes=0,
        cache_bytes=product.k * (rows + columns) * product.a.bytes,
        dram_bytes=moved_bytes(product, tiles, 4, held, chip),
        waits=ceil(product.k / 64),
        registers=NEURAL_REGISTERS,
        barriers=False,
    )
