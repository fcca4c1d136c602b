"""More of MLX's own kernels, unchanged and checked, against MLX's operations."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from cxx import builds, settings_of
from steel import INCLUDE

from mlx_tilegemm.emulator import Output, run_text

KERNELS = "mlx/backend/metal/kernels"


def run(headers, instance, buffers, *, groups, threads, build, **options):
    lines = [f'#include "{KERNELS}/{header}"' for header in ("utils.h", *headers)]
    text = "\n".join([*lines, f'instantiate_kernel("k", {instance})\n'])
    grid = tuple(count * size for count, size in zip(groups, threads, strict=True))
    return run_text(
        text,
        kernel="k",
        buffers=buffers,
        grid=grid,
        threadgroup=threads,
        include_dirs=[INCLUDE],
        settings=settings_of(build),
        **options,
    ).outputs


def normal(seed, shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("build", builds())
def test_softmax(build):
    x = normal(1, (3, 333), np.float16)
    out = Output(shape=x.shape, dtype=x.dtype)
    got = run(
        ["softmax.h"],
        "softmax_single_row, half",
        [x, out, np.int32(333)],
        groups=(3, 1, 1),
        threads=(96, 1, 1),
        build=build,
    )[1]
    exact = mx.softmax(mx.array(x).astype(mx.float32), axis=-1, stream=mx.cpu)
    np.testing.assert_allclose(got, np.array(exact), rtol=2e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("build", builds())
def test_sort(build):
    x = normal(2, (2, 500))
    out = Output(shape=x.shape, dtype=x.dtype)
    sizes = [np.int32(size) for size in (500, 1, 1, 500, 500)]
    got = run(
        ["binary_ops.h", "sort.h"],
        "block_sort, float, float, false, 128, 4",
        [x, out, *sizes],
        groups=(1, 2, 1),
        threads=(128, 1, 1),
        build=build,
    )[1]
    np.testing.assert_array_equal(got, np.sort(x, axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("build", builds())
def test_scan(build):
    x = normal(3, (3, 700))
    out = Output(shape=x.shape, dtype=x.dtype)
    got = run(
        ["binary_ops.h", "scan.h"],
        "contiguous_scan, float, float, CumSum<float>, 4, true, false",
        [x, out, np.uint64(700)],
        groups=(1, 3, 1),
        # With fewer simdgroups it reads sums that none of them has set, and does not use them.
        threads=(1024, 1, 1),
        build=build,
    )[1]
    np.testing.assert_allclose(got, np.cumsum(x, axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", builds())
def test_attention_of_one_query(build):
    heads, kv_heads, length, depth = 4, 2, 77, 64
    q = normal(4, (1, heads, 1, depth), np.float16)
    k = normal(5, (1, kv_heads, length, depth), np.float16)
    v = normal(6, (1, kv_heads, length, depth), np.float16)
    strides = [np.uint64(stride) for stride in (length * depth, depth) * 2]
    scale = depth**-0.5
    arguments = [q, k, v, Output(shape=q.shape, dtype=q.dtype)]
    arguments += [np.int32(heads // kv_heads), np.int32(length), *strides, np.float32(scale)]
    names = ("has_mask", "query_transposed", "do_causal", "bool_mask", "float_mask", "has_sinks")
    got = run(
        ["sdpa_vector.h"],
        f"sdpa_vector, half, {depth}, {depth}",
        arguments,
        groups=(heads, 1, 1),
        threads=(1024, 1, 1),
        build=build,
        function_constants={**dict.fromkeys(names, False), "blocks": 1},
    )[3]
    wide = [mx.array(array).astype(mx.float32) for array in (q, k, v)]
    exact = mx.fast.scaled_dot_product_attention(*wide, scale=scale, stream=mx.cpu)
    np.testing.assert_allclose(got, np.array(exact), rtol=4e-3, atol=4e-3)


@pytest.mark.slow
@pytest.mark.parametrize("build", builds())
def test_quantized_product(build):
    m, n, k = 35, 64, 128
    x = normal(7, (m, k), np.float16)
    w, scales, biases = mx.quantize(
        mx.array(normal(8, (n, k), np.float16)), group_size=64, bits=4, stream=mx.cpu
    )
    arguments = [np.array(w), np.array(scales), np.array(biases), x]
    arguments += [Output(shape=(m, n), dtype=x.dtype)]
    arguments += [np.int32(size) for size in (k, n, m)]
    none = [np.int32(0), np.zeros(1, np.int32), np.zeros(1, np.int64)]
    got = run(
        ["steel/gemm/gemm.h", "quantized_utils.h", "quantized.h"],
        "affine_qmm_t, half, 64, 4, true, false",
        [*arguments, *none, *none, np.zeros(1, np.int64), np.zeros(1, np.int64)],
        groups=(n // 32, -(-m // 32), 1),
        threads=(32, 2, 2),
        build=build,
    )[4]
    exact = (
        mx.array(x).astype(mx.float32)
        @ mx.dequantize(w, scales, biases, group_size=64, bits=4, stream=mx.cpu)
        .astype(mx.float32)
        .T
    )
    np.testing.assert_allclose(got, np.array(exact), rtol=5e-3, atol=5e-2)
