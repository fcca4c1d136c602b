"""Runs MLX's own kernels for chosen matrices in the emulator, as `mlx_kernels` runs the others.

Where rows are sorted first, the sorts and the copies of rows are left out: what is counted is less
than what MLX does.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from mlx_kernels import Array, Buffers, empty, launch

from mlx_tilegemm.core.dtypes import DType
from mlx_tilegemm.families.experts.price import QUANTIZED_TILE, SORTED_TILE, reads_tiles
from mlx_tilegemm.families.experts.problem import ExpertProblem

Indices = npt.NDArray[np.int64]


def run_experts(problem: ExpertProblem, operands: dict[str, Array], dtype: DType) -> Array:
    """Run the kernel of MLX's path on operands whose floats are all of one type.

    Args:
        problem: Products of a row each with matrices ``[n, k]``.
        operands: By name, ``x`` a row for each source.
        dtype: Their type.
    """
    assert problem.transpose
    assert problem.m == 1
    assert problem.fanout
    experts = operands["rhs_indices"].astype(np.int64)
    sources = np.arange(problem.products) // problem.fanout
    if not reads_tiles(problem):
        run = _rows if problem.weight is None else _quantized_rows
        return run(problem, operands, sources, experts, dtype)
    order = np.argsort(experts, kind="stable")
    starts = np.searchsorted(experts[order], np.arange(problem.experts))
    x = operands["x"].reshape(-1, problem.k)[sources[order]]
    tiles = _tiles if problem.weight is None else _quantized_tiles
    found = tiles(problem, {**operands, "x": x}, starts.astype(np.int32), dtype)
    out = np.empty_like(found)
    out[order] = found
    return out


def _rows(
    problem: ExpertProblem,
    operands: dict[str, Array],
    sources: Indices,
    experts: Indices,
    dtype: DType,
) -> Array:
    """Run a product of a row with a matrix for each pair of indices."""
    n, k = problem.n, problem.k
    bm = 8 if n >= 4096 else 4
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    buffers: Buffers = {
        0: operands["w"],
        1: operands["x"],
        3: empty(dtype, problem.products, n),
        4: np.int32(k),
        5: np.int32(n),
        6: np.int32(k),
        9: np.int32(1),
        10: np.array([problem.products], np.int32),
        11: np.array([1, 1], np.int64),
        12: np.int32(1),
        13: np.array([problem.sources], np.int32),
        14: k * one,
        15: np.int32(1),
        16: np.array([problem.experts], np.int32),
        17: n * k * one,
        18: sources.astype(np.uint32),
        19: experts.astype(np.uint32),
    }
    buffers |= {2: zero.astype(operands["w"].dtype), 7: np.float32(1), 8: np.float32(0)}
    return launch(
        "gemv",
        "gemv_gather",
        f"{dtype.metal}, {bm}, 1, 1, 32, 4, 4",
        buffers,
        (-(-n // (bm * 4)), 1, problem.products),
        (32, 1, bm),
    )[3]


def _tiles(
    problem: ExpertProblem, operands: dict[str, Array], starts: Array, dtype: DType
) -> Array:
    """Run a GEMM of sorted rows."""
    m, n, k, tile = problem.products, problem.n, problem.k, SORTED_TILE
    across, down = -(-n // tile.block_n), -(-m // tile.block_m) + problem.experts
    params = struct.pack(
        "8i3q3i4x",
        *(m, n, k, k, k, n, across, down),
        *(0, n * k, 0, 0, k // tile.block_k, 1),
    )
    sizes = (tile.block_m, tile.block_n, tile.block_k, tile.simdgroups_m, tile.simdgroups_n)
    return launch(
        "steel/gemm/gemm steel/gemm/kernels/steel_gemm_gather",
        "gather_mm_rhs",
        f"{dtype.metal}, {', '.join(map(str, sizes))}, false, true",
        {
            0: operands["x"],
            1: operands["w"],
            2: starts,
            3: empty(dtype, m, n),
            4: params,
            5: np.int32(problem.experts),
        },
        (across, down, 1),
        (32, tile.simdgroups_n, tile.simdgroups_m),
        {
            "align_M": m % tile.block_m == 0,
            "align_N": n % tile.block_n == 0,
            "align_K": k % tile.block_k == 0,
        },
    )[3]


def _weight(problem: ExpertProblem, operands: dict[str, Array]) -> list[Array]:
    """Return the weight and what scales it, in the order of MLX's kernels."""
    scale = np.ones(1, np.float32)
    return [operands["w"], operands["scales"], operands.get("biases", scale)]


def _quantized_rows(
    problem: ExpertProblem,
    operands: dict[str, Array],
    sources: Indices,
    experts: Indices,
    dtype: DType,
) -> Array:
    """Run a product of a row with a quantized matrix for each pair of indices."""
    assert problem.weight is not None
    n, k, form = problem.n, problem.k, problem.weight
    assert k % 512 == 0, "another kernel of MLX's"
    assert n % 8 == 0, "another kernel of MLX's"
    one = np.ones(1, np.int64)
    words, groups = n * k * form.bits // 32, n * k // form.group
    steps = [words * one, groups * one, *([groups * one] if problem.biases else [])]
    values = [
        *_weight(problem, operands),
        operands["x"],
        sources.astype(np.uint32),
        experts.astype(np.uint32),
        empty(dtype, problem.products, n),
        np.int32(k),
        np.int32(n),
        np.int32(1),
        np.array([problem.sources, 1, k], np.int32),
        k * one,
        np.int32(1),
        np.array([problem.experts], np.int32),
        *steps,
        np.int32(1),
        np.array([problem.products], np.int32),
        one,
        one,
    ]
    return launch(
        _files(problem),
        f"{_prefix(problem)}_gather_qmv_fast",
        f"{dtype.metal}, {form.group}, {form.bits}",
        dict(enumerate(values)),
        (1, -(-n // 8), problem.products),
        (32, 2, 1),
        {},
    )[6]


def _quantized_tiles(
    problem: ExpertProblem, operands: dict[str, Array], starts: Array, dtype: DType
) -> Array:
    """Run a GEMM of sorted rows with quantized matrices."""
    assert problem.weight is not None
    m, n, k, form, tile = problem.products, problem.n, problem.k, problem.weight, QUANTIZED_TILE
    sizes = (tile.block_m, tile.block_n, tile.block_k, tile.simdgroups_m, tile.simdgroups_n)
    values = [
        operands["x"],
        *_weight(problem, operands),
        starts,
        empty(dtype, m, n),
        *(np.int32(size) for size in (m, n, k, problem.experts)),
    ]
    return launch(
        _files(problem),
        f"{_prefix(problem)}_gather_qmm_rhs",
        f"{dtype.metal}, {form.group}, {form.bits}, {', '.join(map(str, sizes))}, true",
        dict(enumerate(values)),
        (-(-n // tile.block_n), -(-m // tile.block_m) + problem.experts, 1),
        (32, tile.simdgroups_n, tile.simdgroups_m),
        {
            "align_M": m % tile.block_m == 0,
            "align_N": n % tile.block_n == 0,
            "align_K": k % tile.block_k == 0,
        },
    )[5]


def _prefix(problem: ExpertProblem) -> str:
    return "affine" if problem.biases else "fp"


def _files(problem: ExpertProblem) -> str:
    name = "quantized" if problem.biases else "fp_quantized"
    return f"quantized_utils steel/gemm/gemm {name}"
