"""The shapes, tiles and dtypes that TileLang's Metal tests go through, held to proven bounds."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies

import mlx_tilegemm as tg
from mlx_tilegemm import backends
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core import dtypes
from mlx_tilegemm.families.gemm.kernels import gemm_simdgroup
from mlx_tilegemm.families.gemm.problem import gemm_problem
from mlx_tilegemm.machine import chips

pytestmark = pytest.mark.usefixtures("kernels")


def normal(shape, dtype, seed=0):
    return strategies.random_array(np.random.default_rng(seed), shape, dtype)


def check(a, b, kernel, **options):
    with tg.use_kernel(kernel):
        got = tg.matmul(a, b, **options)
        assert tg.explain(tg.matmul, a, b, **options).route == kernel
    layout = {name: value for name, value in options.items() if name.startswith("transpose")}
    value, magnitude = oracle.gemm(a, b, **layout)
    bound = oracle.gemm_bound(value, magnitude, a.shape[-1], dtypes.from_mlx(got.dtype))
    oracle.assert_close(got, value, bound)


TILES = [
    # m, n, k, block_m, block_n, block_k, simdgroups_m, simdgroups_n
    (128, 128, 128, 16, 16, 16, 1, 1),
    (128, 128, 128, 16, 16, 8, 2, 1),
    (128, 128, 128, 32, 32, 32, 2, 2),
    (128, 128, 128, 32, 64, 32, 2, 2),
    (128, 128, 128, 64, 64, 32, 2, 2),
    (256, 512, 128, 32, 32, 16, 2, 2),
    (64, 64, 64, 32, 32, 16, 2, 2),
    (16, 16, 16, 16, 16, 16, 1, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("staged", [True, False], ids=["staged", "direct"])
def test_simdgroup_tiles_with_the_accumulator_in_registers(tile, staged):
    m, n, k, block_m, block_n, block_k, simdgroups_m, simdgroups_n = tile
    config = gemm_simdgroup.Config(
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        simdgroups_m=simdgroups_m,
        simdgroups_n=simdgroups_n,
        staged=staged,
    )
    a, b = normal((m, k), mx.float16), normal((k, n), mx.float16, 1)
    problem = gemm_problem(
        "matmul",
        a_shape=a.shape,
        b_shape=b.shape,
        a=dtypes.FLOAT16,
        b=dtypes.FLOAT16,
        transpose_a=False,
        transpose_b=False,
        out=dtypes.FLOAT32,
    )
    assert gemm_simdgroup.reject(problem, config, chips.DEFAULT) is None
    backend = backends.resolve().backend
    run = kernel_run(problem, gemm_simdgroup.plan(problem, config), backend)
    (got,) = run((a, b), (1.0, 1.0), None)
    value, magnitude = oracle.gemm(a, b)
    oracle.assert_close(got, value, oracle.gemm_bound(value, magnitude, k, dtypes.FLOAT32))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.float16, mx.float32], ids=str)
def test_1024_cubed(dtype):
    check(normal((1024, 1024), dtype), normal((1024, 1024), dtype, 1), "gemm_simdgroup")


def test_integers_of_two_digits_are_exact():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 100, (256, 256)), rng.integers(0, 100, (256, 256))
    got = tg.matmul(mx.array(a).astype(mx.int32), mx.array(b).astype(mx.int32))
    np.testing.assert_array_equal(np.array(got), a @ b)


@pytest.mark.parametrize("pair", [(mx.float32, mx.float32), (mx.float16, mx.float32)], ids=str)
def test_scalar_128_cubed(pair):
    check(normal((128, 128), pair[0]), normal((128, 128), pair[1], 1), "gemm_scalar")


def test_scalar_with_a_transposed_operand():
    a, b = normal((128, 128), mx.float32), normal((128, 128), mx.float32, 1)
    check(a, b, "gemm_scalar", transpose_b=True)


@pytest.mark.parametrize("pair", [(mx.bfloat16, mx.bfloat16), (mx.float32, mx.float16)], ids=str)
def test_32_by_64_by_16(pair):
    check(normal((32, 16), pair[0]), normal((16, 64), pair[1], 1), "gemm_simdgroup")


@pytest.mark.parametrize("out", [mx.float32, mx.float16], ids=str)
def test_the_literal_chain_keeps_its_scores_in_float32(out):
    q, k, v = (normal((1, 1, 32, 64), mx.float16, seed) for seed in range(3))
    with tg.use_kernel("attention_chain"):
        got = tg.attention_chain(q, k, v, softmax=False, out_dtype=out)
    scores = oracle.to_numpy(q)[0, 0] @ oracle.to_numpy(k)[0, 0].T
    value = scores @ oracle.to_numpy(v)[0, 0]
    error = np.linalg.norm(oracle.to_numpy(got)[0, 0] - value) / np.linalg.norm(value)
    # 2.2e-4 if the scores went through float16; rounding the result to float16 leaves as much.
    assert error < (1e-6 if out == mx.float32 else 3e-4)


def test_a_base_two_softmax_is_one_of_another_temperature():
    q, k, v = (normal((1, 1, 16, 16), mx.float32, seed) for seed in range(3))
    got = np.array(tg.attention_chain(q, k, v, scale=math.log(2.0), mask="causal"))[0, 0]
    scores = np.array(q)[0, 0].astype(np.float64) @ np.array(k)[0, 0].T.astype(np.float64)
    scores[np.triu_indices(16, 1)] = -np.inf
    weights = np.exp2(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, weights @ np.array(v)[0, 0], rtol=1e-5, atol=1e-6)


def test_a_latent_of_two_parts_is_one_of_their_concatenation():
    q, q_pe = normal((1, 32, 32), mx.float16), normal((1, 32, 32), mx.float16, 1)
    kv, k_pe = normal((1, 64, 1, 32), mx.float16, 2), normal((1, 64, 1, 32), mx.float16, 3)
    queries = mx.concatenate([q, q_pe], axis=-1)[:, :, None, :]
    keys = mx.concatenate([kv, k_pe], axis=-1).swapaxes(1, 2)
    values = kv.swapaxes(1, 2)
    got = tg.attention_chain(queries, keys, values, scale=1.0)
    value, bound, _ = oracle.attention(queries, keys, values, scale=1.0)
    oracle.assert_close(got, value, bound + oracle.rounding(value, dtypes.FLOAT16))
