"""Time that MLX's own ops would take: the candidate that every kernel has to beat.

For a row of each product MLX reads an expert's weight once for every tile of rows if they are
sorted, which takes sorting and copying them; else once for every row. Operands of other dtypes it
casts into copies first, all experts of them, at every call.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from ...core.dtypes import FLOAT32, INT32, DType
from ...core.plan import SIMD_WIDTH
from ...machine.chips.record import Chip
from ...machine.cost import TileWork, seconds
from ...machine.mlx_products import (
    casts_seconds,
    neural_rate,
    same_dtype_gemm,
    steel_tile,
    streaming_seconds,
)
from ...machine.price import Price, make_price
from ...machine.products import GemmTile, Product, gemm_work
from .fallback import sorts
from .kernels.expert_gemv import reread_bytes
from .kernels.segmented_gemm import segments_product
from .problem import AnyProblem, ExpertProblem, SegmentedProblem
from .spec import expected_blocks, moved_bytes, weight_instructions

SORTING_LAUNCHES = 5
"""Two sorts, and rows and indices taken in order and back."""

FEWEST_SORTED = 16
"""Products below which MLX's quantized op reads the weight for every row, sorted or not."""

FEWEST_ROWS = 4
"""Likewise products for each expert."""

TILE_ROWS = 16
"""Rows of a tile of MLX's ops for sorted rows."""

SORTED_TILE = GemmTile(
    block_m=TILE_ROWS,
    block_n=64,
    block_k=16,
    simdgroups_m=1,
    simdgroups_n=2,
    staged=True,
    registers=64,
    threadgroup_memory=4096,
)

QUANTIZED_TILE = replace(SORTED_TILE, block_n=32, block_k=32)


def price(problem: AnyProblem, chip: Chip) -> Price | None:
    """Return what MLX's ops would run."""
    if problem.is_empty:
        return Price(path="fill", seconds=chip.launch_seconds)
    if isinstance(problem, SegmentedProblem):
        return _segments_price(problem, chip)
    decoding, decoded = _decoding(problem, chip)
    if problem.has_codes:
        problem = replace(problem, w=FLOAT32, scaling=None, scales=None)
    compute = problem.computed
    casts = [(problem.elements("x"), problem.x, compute)]
    if problem.weight is None:
        casts.append((problem.elements("w"), problem.w, compute))
    for name, dtype in (("scales", problem.scales), ("biases", problem.biases)):
        if problem.biases is not None and dtype is not None:
            casts.append((problem.elements(name), dtype, compute))
    passes = problem.tensor_scale + (problem.bias is not None) + problem.grouped
    elements = problem.results[0].elements
    casts += [(elements, compute, FLOAT32)] * passes
    casts.append((elements, compute, problem.out))
    copying, copied = casts_seconds(casts, chip)
    path, time = _same_dtype(problem, compute, chip)
    around = passes * chip.launch_seconds + _sorting_seconds(problem, compute, chip)
    reduced = path.startswith("neural") and compute is FLOAT32
    return make_price(path, time + copying + decoding + around, copied + decoded, reduced)


def _decoding(problem: ExpertProblem, chip: Chip) -> tuple[float, int]:
    """Return the seconds and bytes of decoding codes of a byte, of as many experts as need be."""
    if not problem.has_codes:
        return 0.0, 0
    elements = min(problem.products, problem.experts) * problem.n * problem.k
    casting, copied = casts_seconds([(elements, problem.w, FLOAT32)], chip)
    if problem.scaling is None:
        return casting, copied
    passed = 2 * FLOAT32.bytes * elements
    return casting + chip.launch_seconds + streaming_seconds(passed, chip), copied + passed


def _segments_price(problem: SegmentedProblem, chip: Chip) -> Price:
    compute = problem.computed
    casts = [
        (problem.elements("a"), problem.a, compute),
        (problem.elements("b"), problem.b, compute),
        (problem.results[0].elements, compute, problem.out),
    ]
    copying, copied = casts_seconds(casts, chip)
    product = segments_product(problem)._replace(a=compute, b=compute, out=compute)
    time = seconds(gemm_work(product, steel_tile(product, chip), chip), chip)
    return make_price("steel-segmented", time + copying, copied, False)


def _sorting_seconds(problem: ExpertProblem, compute: DType, chip: Chip) -> float:
    if not sorts(problem):
        return 0.0
    copied = problem.products * (problem.k + problem.n) * compute.bytes
    sorted_bytes = 4 * INT32.bytes * problem.products
    return SORTING_LAUNCHES * chip.launch_seconds + streaming_seconds(
        2 * copied + sorted_bytes, chip
    )


def _same_dtype(problem: ExpertProblem, compute: DType, chip: Chip) -> tuple[str, float]:
    """Return which kernel MLX runs for operands of one type, in words, and its seconds."""
    if problem.m > 1:
        return _matrices(problem, compute, chip)
    if reads_tiles(problem):
        return _tiles(problem, compute, chip)
    name = "gather-qmv" if problem.weight else "gather-gemv"
    return name, seconds(_rows_work(problem, compute, chip), chip)


def reads_tiles(problem: ExpertProblem) -> bool:
    """Whether MLX reads a weight once for a tile of rows, of products of a row each."""
    ordered = problem.grouped or problem.sorted or sorts(problem)
    if problem.weight is None or not ordered:
        return ordered
    enough = problem.products >= FEWEST_ROWS * problem.experts
    return enough and problem.products >= FEWEST_SORTED


def _tiles(problem: ExpertProblem, compute: DType, chip: Chip) -> tuple[str, float]:
    rows = expected_blocks(problem, TILE_ROWS) * TILE_ROWS
    product = _product(problem, compute, rows)
    if neural_rate(compute, chip):
        path, time = same_dtype_gemm(product, chip)
        # The product of all rows knows of one weight.
        moving = chip.launch_seconds + streaming_seconds(moved_bytes(problem), chip)
        return f"{path}-sorted", max(time, moving)
    tile = SORTED_TILE if problem.weight is None else QUANTIZED_TILE
    work = gemm_work(product, tile, chip)
    decoded = ceil(problem.k / tile.block_k) * tile.block_k * tile.block_n / SIMD_WIDTH
    decoding = 0.0 if problem.weight is None else decoded * weight_instructions(problem)
    work = work._replace(
        alu_cycles=work.alu_cycles + decoding * chip.alu_cycles,
        line_bytes=0.0,
        shared_bytes=0.0,
        dram_bytes=moved_bytes(problem),
    )
    name = "gather-mm-sorted" if problem.weight is None else "gather-qmm-sorted"
    return f"{name}-{tile.block_m}x{tile.block_n}x{tile.block_k}", seconds(work, chip)


def _matrices(problem: ExpertProblem, compute: DType, chip: Chip) -> tuple[str, float]:
    """Price a product for each index, with a weight of its own."""
    product = _product(problem, compute, problem.m)._replace(
        batch_size=problem.products, a_matrices=problem.products, b_matrices=problem.products
    )
    if neural_rate(compute, chip):
        path, time = same_dtype_gemm(product, chip)
        return f"{path}-gathered", time
    tile = steel_tile(product, chip)
    work = gemm_work(product, tile, chip)
    moved = moved_bytes(problem) + reread_bytes(problem, problem.products, chip)
    return "steel-gathered", seconds(work._replace(dram_bytes=moved), chip)


def _product(problem: ExpertProblem, compute: DType, rows: int) -> Product:
    return Product(
        m=rows,
        n=problem.n,
        k=problem.k,
        a=compute,
        b=compute,
        out=compute,
        transpose_b=problem.transpose,
    )


def _rows_work(problem: ExpertProblem, compute: DType, chip: Chip) -> TileWork:
    """Count 8 columns a threadgroup of two simdgroups, a row at a time."""
    columns = 8
    elements = columns * problem.k / SIMD_WIDTH
    share = problem.expert_bytes / (problem.n * problem.k)
    if problem.weight is None:
        share = compute.bytes
    x_bytes = problem.k * compute.bytes
    return TileWork(
        tiles=ceil(problem.n / columns) * problem.products,
        simdgroups=2,
        chains=4,
        issue_cycles=elements * chip.alu_cycles,
        alu_cycles=elements * (weight_instructions(problem) - 1) * chip.alu_cycles,
        threadgroup_bytes=0,
        vector_bytes=x_bytes,
        cache_bytes=columns * problem.k * share + x_bytes,
        dram_bytes=moved_bytes(problem) + reread_bytes(problem, problem.products, chip),
        registers=64,
    )
