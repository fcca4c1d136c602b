"""Time that MLX's own op would take: the candidate that every kernel has to beat.

It reads a weight again for every few rows up to a limit, beyond which it decodes it into tiles of
32 rows, with k shared out where they are few; operands of other dtypes it casts into copies first,
at every call. Limits and shares are those of mlx/backend/metal/quantized.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from ...core.dtypes import FLOAT32, DType
from ...core.plan import SIMD_WIDTH
from ...machine.chips.record import Chip
from ...machine.cost import TileWork, seconds
from ...machine.decoding import decoding_instructions
from ...machine.mlx_products import casts_seconds, neural_rate, same_dtype_gemm
from ...machine.price import Price, make_price
from ...machine.products import GemmTile, Product, gemm_work
from ...machine.splits import adding_seconds
from .problem import QuantizedProblem
from .spec import written_bytes

WIDE_ROWS = 5
"""Rows that one threadgroup of MLX's vector kernel for several rows serves."""

QMM_TILE = GemmTile(
    block_m=32,
    block_n=32,
    block_k=32,
    simdgroups_m=2,
    simdgroups_n=2,
    staged=True,
    registers=40,
    threadgroup_memory=2 * 32 * 40 * 2,
)

QMM = "qmm-32x32x32-2x2"
SPLIT_QMM = "qmm-split-k-32x32x32-2x2-split"
"""Names of MLX's paths; the number of shares follows the second."""


def price(problem: QuantizedProblem, chip: Chip) -> Price | None:
    """Return what MLX's op would run; None where it cannot stand in."""
    if problem.batch_invariant:
        return None
    if problem.is_empty:
        return Price(path="fill", seconds=chip.launch_seconds)
    compute = problem.computed
    casts = [
        (problem.elements(name), dtype, compute)
        for name, dtype in (
            ("x", problem.x),
            ("scales", problem.scales),
            ("biases", problem.biases),
        )
        if dtype is not None and (name == "x" or problem.biases is not None)
    ]
    elements = problem.results[0].elements
    passes = problem.tensor_scale + (problem.bias is not None)
    casts += [(elements, compute, FLOAT32)] * passes
    casts += [(elements, compute, problem.out)]
    copying, copied = casts_seconds(casts, chip)
    path, time = _same_dtype(problem, compute, chip)
    reduced = path.startswith("neural") and compute is FLOAT32
    return make_price(path, time + copying + passes * chip.launch_seconds, copied, reduced)


def _same_dtype(problem: QuantizedProblem, compute: DType, chip: Chip) -> tuple[str, float]:
    if problem.m < _vector_limit(problem, chip):
        rows = vector_rows(problem, chip)
        name = "qmv-wide" if rows > 1 else "qmv" if problem.transpose else "qvm"
        return name, seconds(vector_work(problem, compute, rows, chip), chip)
    if (splits := qmm_splits(problem)) > 1:
        return f"{SPLIT_QMM}{splits}", _split_seconds(problem, compute, splits, chip)
    if problem.transpose and problem.k % 64 == 0 and neural_rate(compute, chip):
        return "neural-qmm", same_dtype_gemm(_product(problem, compute), chip)[1]
    return QMM, seconds(_qmm_work(problem, compute, chip), chip)


def qmm_splits(problem: QuantizedProblem) -> int:
    """Return the shares of k that MLX makes tiles of, to have about 512 of them; 1 for none."""
    if not problem.transpose or problem.batch_size > 1:
        return 1
    tiles = ceil(problem.n / QMM_TILE.block_n) * ceil(problem.m / QMM_TILE.block_m)
    step = max(QMM_TILE.block_k, problem.weight.group)
    most = min(512 // tiles, problem.k // step)
    return next((count for count in range(most, 1, -1) if problem.k % (count * step) == 0), 1)


def _split_seconds(problem: QuantizedProblem, compute: DType, splits: int, chip: Chip) -> float:
    share = replace(problem, k=problem.k // splits, out=FLOAT32)
    work = _qmm_work(share, compute, chip)
    shares = work._replace(tiles=work.tiles * splits, dram_bytes=work.dram_bytes * splits)
    adding = adding_seconds(problem.m * problem.n, splits, compute.bytes, chip)
    return seconds(shares, chip) + adding


def _product(problem: QuantizedProblem, compute: DType) -> Product:
    return Product(
        m=problem.m,
        n=problem.n,
        k=problem.k,
        a=compute,
        b=compute,
        out=compute,
        transpose_b=problem.transpose,
        batch_size=problem.batch_size,
    )


def _qmm_work(problem: QuantizedProblem, compute: DType, chip: Chip) -> TileWork:
    """Count the tiles of 32 rows that MLX decodes a weight for."""
    dense = gemm_work(_product(problem, compute), QMM_TILE, chip)
    decoded = ceil(problem.k / 32) * 32 * 32 / SIMD_WIDTH
    decoding = decoded * decoding_instructions(problem.weight) * chip.alu_cycles
    return dense._replace(
        alu_cycles=dense.alu_cycles + decoding,
        line_bytes=0.0,
        shared_bytes=0.0,
        dram_bytes=problem.weight_bytes + problem.nbytes("x") + written_bytes(problem),
    )


def vector_rows(problem: QuantizedProblem, chip: Chip) -> int:
    """Return the rows for which one of MLX's vector kernels reads a weight once."""
    wide = problem.transpose and (problem.biases is None or chip.generation >= 15)
    # As even as can be: each pass reads the weight.
    return ceil(problem.m / ceil(problem.m / WIDE_ROWS)) if wide else 1


def _vector_limit(problem: QuantizedProblem, chip: Chip) -> int:
    """Return the rows from which MLX multiplies tiles."""
    if not problem.transpose:
        return 4
    size = max(problem.k, problem.n)
    limits = {"d": (32, 18, 12)}.get(chip.size_class) or (
        (33, 25, 13)
        if chip.generation >= 17
        else (13, 15, 13)
        if chip.generation >= 15
        else (14, 10, 6)
    )
    return limits[0] if size <= 2048 else limits[1] if size <= 4096 else limits[2]


def vector_work(problem: QuantizedProblem, compute: DType, rows: int, chip: Chip) -> TileWork:
    """Count the columns of a threadgroup of two simdgroups, for so many rows at a time."""
    columns = 4 if rows > 1 and problem.biases is None else 8
    passes = ceil(problem.m / rows)
    elements = columns * problem.k / SIMD_WIDTH
    share = problem.weight_bytes / max(1, problem.elements("w"))
    x_bytes = rows * problem.k * compute.bytes
    again = (passes - 1) * problem.weight_bytes
    # What one pass has read the next may find in the last cache.
    missed = max(0.0, 1.0 - chip.slc_bytes / problem.weight_bytes)
    return TileWork(
        tiles=ceil(problem.n / columns) * passes * problem.batch_size,
        simdgroups=2,
        chains=4,
        issue_cycles=elements * rows * chip.alu_cycles,
        alu_cycles=elements * (decoding_instructions(problem.weight) - 1) * chip.alu_cycles,
        threadgroup_bytes=0,
        vector_bytes=x_bytes,
        cache_bytes=columns * problem.k * share + x_bytes,
        repeated_bytes=x_bytes,
        dram_bytes=problem.weight_bytes
        + again * missed
        + problem.nbytes("x")
        + written_bytes(problem),
        registers=64,
    )
