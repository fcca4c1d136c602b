"""Runs MLX's own GEMM and attention kernels, from the headers of the installed package."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx
import numpy as np
import numpy.typing as npt

from mlx_tilegemm import emulator

INCLUDE = Path(next(iter(mlx.__path__))) / "include"
Array = npt.NDArray[Any]

_KERNELS = "mlx/backend/metal/kernels"
_METAL_TYPES = {np.float16: "half", np.float32: "float"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Tile sizes of a GEMM."""

    bm: int
    bn: int
    bk: int
    wm: int
    wn: int


def gemm(
    a: Array, b: Array, tile: Tile, *, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[Array, emulator.Counters]:
    """op(a) @ op(b) by MLX's steel_gemm_fused."""
    m, k = a.shape[::-1] if transpose_a else a.shape
    n = b.shape[0] if transpose_b else b.shape[1]
    flags = ", ".join(str(flag).lower() for flag in (transpose_a, transpose_b))
    text = (
        f'#include "{_KERNELS}/utils.h"\n'
        f'#include "{_KERNELS}/steel/gemm/gemm.h"\n'
        f'#include "{_KERNELS}/steel/gemm/kernels/steel_gemm_fused.h"\n'
        f'instantiate_kernel("gemm", gemm, {_METAL_TYPES[a.dtype.type]}, '
        f"{tile.bm}, {tile.bn}, {tile.bk}, {tile.wm}, {tile.wn}, {flags})\n"
    )
    tiles_n, tiles_m = -(-n // tile.bn), -(-m // tile.bm)
    params = struct.pack(
        "8i3q3i4x",
        *(m, n, k, a.shape[1], b.shape[1], n, tiles_n, tiles_m),
        *(m * k, n * k, m * n),
        *(0, k // tile.bk, 0),
    )
    launched = emulator.run_text(
        text,
        kernel="gemm",
        buffers={
            0: a,
            1: b,
            3: emulator.Output(shape=(m, n), dtype=a.dtype),
            4: params,
        },
        grid=(32 * tiles_n, tile.wn * tiles_m, tile.wm),
        threadgroup=(32, tile.wn, tile.wm),
        function_constants={
            "has_batch": False,
            "use_out_source": False,
            "do_axpby": False,
            "align_M": m % tile.bm == 0,
            "align_N": n % tile.bn == 0,
            "align_K": k % tile.bk == 0,
        },
        include_dirs=[INCLUDE],
    )
    return launched.outputs[3], launched.counters


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    causal: bool,
    block_q: int = 32,
    block_k: int = 32,
    wm: int = 4,
) -> tuple[Array, emulator.Counters]:
    """softmax(scale q k') v by MLX's steel_attention; arrays are [batch, heads, length, depth]."""
    batch, heads, q_length, depth = q.shape
    k_length = k.shape[2]
    text = (
        f'#include "{_KERNELS}/utils.h"\n'
        f'#include "{_KERNELS}/steel/attn/kernels/steel_attention.h"\n'
        f'instantiate_kernel("attention", attention, {_METAL_TYPES[q.dtype.type]}, '
        f"{block_q}, {block_k}, {depth}, {depth}, {wm}, 1, bool, float)\n"
    )
    blocks_q, blocks_k = -(-q_length // block_q), -(-k_length // block_k)
    strides = [stride // array.itemsize for array in (q, k, v, q) for stride in array.strides[:3]]
    params = struct.pack(
        "6if7i12q",
        *(batch, heads, depth, q_length, k_length, heads // k.shape[1], scale),
        *(blocks_q, blocks_k, q_length // block_q, k_length // block_k),
        *(q_length % block_q, k_length % block_k, k_length - q_length),
        *strides,
    )
    launched = emulator.run_text(
        text,
        kernel="attention",
        buffers={
            0: q,
            1: k,
            2: v,
            3: emulator.Output(shape=q.shape, dtype=q.dtype),
            4: params,
        },
        grid=(32 * blocks_q, wm * heads, batch),
        threadgroup=(32, wm, 1),
        function_constants={
            "align_Q": q_length % block_q == 0,
            "align_K": k_length % block_k == 0,
            "has_mask": False,
            "do_causal": causal,
            "has_sinks": False,
            "save_lse": False,
        },
        include_dirs=[INCLUDE],
    )
    return launched.outputs[3], launched.counters
