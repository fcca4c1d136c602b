"""MLX's own GEMM and attention kernels run unchanged, without findings, and are right."""

from __future__ import annotations

import numpy as np
import pytest
from cxx import builds, choice_of
from steel import Tile, attention, gemm

from mlx_tilegemm import emulator

SQUARE = Tile(bm=64, bn=64, bk=16, wm=2, wn=2)
FLAT = Tile(bm=32, bn=64, bk=16, wm=1, wn=2)
DEEP = Tile(bm=64, bn=32, bk=32, wm=2, wn=2)
GEMMS = (
    (np.float16, SQUARE, (64, 64, 64), False, False),
    (np.float16, SQUARE, (100, 70, 50), False, True),
    (np.float16, FLAT, (65, 64, 64), True, False),
    (np.float32, DEEP, (64, 128, 33), False, True),
    (np.float32, SQUARE, (1, 1, 1), True, True),
)
ATTENTIONS = (
    (np.float16, (1, 2, 2, 64, 64, 64), False),
    (np.float32, (2, 4, 2, 37, 50, 64), True),
    (np.float16, (1, 2, 1, 40, 70, 128), True),
)


def normal(seed, shape, dtype):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("build", builds())
@pytest.mark.parametrize(("dtype", "tile", "size", "transpose_a", "transpose_b"), GEMMS)
def test_gemm(build, dtype, tile, size, transpose_a, transpose_b):
    m, n, k = size
    a = normal(1, (k, m) if transpose_a else (m, k), dtype)
    b = normal(2, (n, k) if transpose_b else (k, n), dtype)
    with emulator.settings(**choice_of(build)):
        out, counters = gemm(a, b, tile, transpose_a=transpose_a, transpose_b=transpose_b)
    exact = (a.T if transpose_a else a).astype(np.float64) @ (b.T if transpose_b else b).astype(
        np.float64
    )
    tolerance = (2e-3 if dtype is np.float16 else 1e-5) * np.sqrt(k)
    np.testing.assert_allclose(out.astype(np.float64), exact, rtol=tolerance, atol=tolerance)
    assert counters.multiply_accumulates > 0


def reference(q, k, v, scale, causal):
    q, k, v = (array.astype(np.float64) for array in (q, k, v))
    k, v = (np.repeat(array, q.shape[1] // k.shape[1], axis=1) for array in (k, v))
    scores = scale * q @ np.swapaxes(k, -1, -2)
    if causal:
        offset = k.shape[2] - q.shape[2]
        keep = np.arange(k.shape[2])[None] <= np.arange(q.shape[2])[:, None] + offset
        scores = np.where(keep, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.slow
@pytest.mark.parametrize("build", builds())
@pytest.mark.parametrize(("dtype", "size", "causal"), ATTENTIONS)
def test_attention(build, dtype, size, causal):
    batch, heads, kv_heads, q_length, k_length, depth = size
    q = normal(1, (batch, heads, q_length, depth), dtype)
    k = normal(2, (batch, kv_heads, k_length, depth), dtype)
    v = normal(3, (batch, kv_heads, k_length, depth), dtype)
    scale = depth**-0.5
    block_k = 32 if depth < 128 else 16
    with emulator.settings(**choice_of(build)):
        out, _ = attention(q, k, v, scale=scale, causal=causal, block_k=block_k)
    exact = reference(q, k, v, scale, causal)
    tolerance = 4e-3 if dtype is np.float16 else 2e-5
    np.testing.assert_allclose(out.astype(np.float64), exact, rtol=tolerance, atol=tolerance)
