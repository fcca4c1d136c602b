"""Kernels that lean on the headers, run by the emulator: own ones, and those that MLX ships."""

from __future__ import annotations

from pathlib import Path

import mlx
import mlx.core as mx
import numpy as np
import pytest
from cxx import builds, choice_of, compilers, settings_of

import mlx_tilegemm as tg
from mlx_tilegemm.emulator import Output, run_text
from mlx_tilegemm.emulator.run import load_text

RNG = np.random.default_rng(11)
MLX_INCLUDE = Path(next(iter(mlx.__path__))) / "include"
KERNELS = "mlx/backend/metal/kernels"

pytestmark = pytest.mark.skipif(not compilers(), reason="no C++ compiler")
ships_headers = pytest.mark.skipif(
    not (MLX_INCLUDE / KERNELS / "utils.h").exists(), reason="this MLX ships no kernel headers"
)


@pytest.fixture(params=builds())
def build(request: pytest.FixtureRequest):
    with tg.emulator.settings(**choice_of(request.param)):
        yield request.param


def run(source: str, inputs: list[mx.array], dtype: mx.Dtype, count: int, **options) -> np.ndarray:
    names = "abcd"[: len(inputs)]
    kernel = tg.emulator.metal_kernel("k", list(names), ["out"], source, **options)
    (out,) = kernel(
        inputs=inputs,
        template=[("T", inputs[0].dtype)],
        output_shapes=[(count,)],
        output_dtypes=[dtype],
        grid=(count, 1, 1),
        threadgroup=(32, 1, 1),
    )
    return np.array(out.astype(mx.float32) if dtype == mx.bfloat16 else out)


def test_vectors_in_every_address_space(build: str) -> None:
    source = """
      threadgroup half4 rows[32];
      threadgroup packed_float3 odd[32];
      const uint i = thread_position_in_grid.x, lane = thread_index_in_simdgroup;
      const device float4* in = (const device float4*)a;
      rows[lane] = half4(in[i].wzyx);
      rows[lane].xw *= 2;
      odd[lane] = in[i].yzw;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      const float4 v = float4(rows[31 - lane]);
      float3 w = odd[31 - lane];
      w.xy += v.zw;
      union { float f; uint u; uchar4 bytes; } bits;
      bits.f = w.x;
      const float4 low = float4(bits.bytes) / 255.0f;
      out[i] = v.x + w.y * w.z + low.y + length(v.xyz) + select(0.0f, 1.0f, any(v.xy > w.xy));
    """
    a = RNG.standard_normal((64, 4)).astype(np.float32)
    v = a[:, ::-1].astype(np.float16)
    v[:, [0, 3]] *= 2
    v, w = (x.reshape(2, 32, -1)[:, ::-1].reshape(64, -1) for x in (v.astype(np.float32), a[:, 1:]))
    w = w.copy()
    w[:, :2] += v[:, 2:]
    low = np.ascontiguousarray(w[:, 0]).view(np.uint8).reshape(64, 4)[:, 1] / np.float32(255)
    larger = (v[:, :2] > w[:, :2]).any(1)
    expected = v[:, 0] + w[:, 1] * w[:, 2] + low + np.linalg.norm(v[:, :3], axis=1) + larger
    actual = run(source, [mx.array(a)], mx.float32, 64)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


def test_bfloat_kernel_rounds_as_mlx_does(build: str) -> None:
    source = """
      const uint i = thread_position_in_grid.x;
      T y = a[i] * b[i] + T(1);
      y = metal::max(y, T(0.5f)) - metal::exp(-metal::abs(a[i]));
      out[i] = y;
    """
    a, b = (mx.array(RNG.standard_normal(64)).astype(mx.bfloat16) for _ in range(2))
    y = a * b + mx.array(1, mx.bfloat16)
    y = mx.maximum(y, mx.array(0.5, mx.bfloat16)) - mx.exp(-mx.abs(a))
    actual = run(source, [a, b], mx.bfloat16, 64)
    np.testing.assert_array_equal(actual, np.array(y.astype(mx.float32)))


def test_bfloat_simd_sums_in_float(build: str) -> None:
    source = "out[thread_position_in_grid.x] = simd_sum(a[thread_position_in_grid.x]);"
    a = mx.array(RNG.uniform(1, 2, 32)).astype(mx.bfloat16)
    total = mx.sum(a.astype(mx.float32)).astype(mx.bfloat16).astype(mx.float32)
    np.testing.assert_array_equal(run(source, [a], mx.bfloat16, 32), np.full(32, total.item()))


def test_prelude_helpers_on_a_transposed_input(build: str) -> None:
    source = """
      const uint i = thread_position_in_grid.x;
      const auto at = elem_to_loc(i, a_shape, a_strides, a_ndim);
      LoopedElemToLoc<2, int> walk(a_ndim);
      for (uint k = 0; k < i; ++k) { walk.next(a_shape, a_strides); }
      out[i] = a[at] + (walk.location() == int(at) ? 0 : 1000) + log1p(float(ceildiv(i, 7)));
    """
    a = RNG.standard_normal((8, 4)).astype(np.float32)
    actual = run(source, [mx.array(a).T], mx.float32, 32, ensure_row_contiguous=False)
    steps = np.log1p(-(-np.arange(32) // 7))
    np.testing.assert_allclose(actual, a.T.ravel() + steps, rtol=1e-6, atol=1e-6)


def test_complex_kernel(build: str) -> None:
    source = """
      const uint i = thread_position_in_grid.x;
      complex64_t z = a[i] * b[i];
      z += 1.0f / a[i];
      out[i] = z - b[i] / a[i];
    """
    a, b = ((RNG.standard_normal((2, 32)).T @ [1, 1j]).astype(np.complex64) for _ in range(2))
    actual = run(source, [mx.array(a), mx.array(b)], mx.complex64, 32)
    np.testing.assert_allclose(actual, a * b + 1 / a - b / a, rtol=1e-5)


# MLX's own kernels: (headers, kernel, template arguments).
SHIPPED = [
    ("arange.h", "arange", "half"),
    ("copy.h", "copy_g", "half, bfloat16_t"),
    ("copy.h", "copy_gg", "complex64_t, float"),
    ("cross_entropy.h", "cross_entropy", "bfloat16_t"),
    ("dot.h", "dot_product", "half, 4, 256, 8"),
    ("gated_delta_update.h", "gated_delta_fused_chunk", "half, 128, 128, 4, 8, 32"),
    ("gated_delta_update_vjp.h", "gated_delta_vjp_seq", "half, 128, 128, 4, 8, 16"),
    ("hadamard.h", "hadamard_n", "half, 1024, 16, 2"),
    ("indexing/gather_axis.h", "gather_axis", "float, int, int64_t, true, true"),
    ("indexing/gather_front.h", "gather_front", "float, int, int64_t, 2"),
    ("logsumexp.h", "logsumexp_looped", "bfloat16_t"),
    ("sdpa_blocked.h", "sdpa_blocked_scale_copy", "half"),
    ("sdpa_vector.h", "sdpa_vector_2pass_2", "bfloat16_t, 64"),
    ("sort.h", "block_sort", "bfloat16_t, bfloat16_t, false, 256, 8"),
    ("steel/attn/kernels/steel_attention.h", "attention", "half, 32, 16, 128, 128, 4, 1, bool"),
    (
        "steel/gemm/gemm.h quantized_utils.h fp8.h fp4.h fp_quantized.h",
        "fp_qmm_t",
        "bfloat16_t, 32, 4, true, false",
    ),
    (
        "steel/gemm/gemm.h steel/gemm/kernels/steel_gemm_gather.h",
        "gather_mm",
        "half, 32, 32, 16, 2, 2, false, true",
    ),
    (
        "steel/gemm/gemm.h steel/gemm/kernels/steel_gemm_splitk.h",
        "gemm_splitk",
        "bfloat16_t, float, 32, 32, 16, 2, 2, false, true, true, true",
    ),
    (
        "steel/defines.h steel/utils.h steel/conv/conv.h steel/conv/params.h steel/gemm/mma.h "
        "steel/conv/kernels/steel_conv.h",
        "implicit_gemm_conv_2d",
        "half, 32, 32, 16, 2, 2, 4, false",
    ),
]


def mlx_text(headers: str, *kernels: tuple[str, str, str]) -> str:
    """Text that instantiates kernels (name, template, arguments) of MLX's headers."""
    lines = [f'#include "{KERNELS}/{name}"' for name in ("utils.h", *headers.split())]
    lines += [f'instantiate_kernel("{name}", {kernel}, {args})' for name, kernel, args in kernels]
    return "\n".join(lines) + "\n"


def run_mlx(headers: str, kernel: str, arguments: str, **launch) -> np.ndarray:
    text = mlx_text(headers, ("k", kernel, arguments))
    return run_text(text, include_dirs=[MLX_INCLUDE], **launch).outputs


@pytest.mark.slow
@ships_headers
@pytest.mark.parametrize("build", builds()[:2])
@pytest.mark.parametrize(("headers", "kernel", "arguments"), SHIPPED)
def test_mlx_kernel_compiles(build: str, headers: str, kernel: str, arguments: str) -> None:
    constants = tuple(dict.fromkeys(range(400), 0).items())
    loaded = load_text(
        mlx_text(headers, ("k", kernel, arguments)),
        prelude="msl/prelude_metal.h",
        settings=settings_of(build),
        constants=constants,
        include_dirs=(str(MLX_INCLUDE),),
    )
    assert loaded.entry.name == "k"


@ships_headers
@pytest.mark.parametrize("length", [64, 100, 4000])
def test_mlx_softmax(length: int) -> None:
    x = RNG.standard_normal((3, length)).astype(np.float16)
    x[1, 5] = -np.inf
    threads = max(32, -(-length // 128) * 32)
    out = run_mlx(
        "softmax.h",
        "softmax_single_row",
        "half, float",
        buffers=[x, Output(shape=x.shape, dtype=np.float16), np.int32(length)],
        grid=(3 * threads, 1, 1),
        threadgroup=(threads, 1, 1),
    )[1]
    wide = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(out, wide / wide.sum(1, keepdims=True), rtol=2e-3, atol=1e-6)


@pytest.mark.slow
@ships_headers
def test_mlx_vector_attention() -> None:
    heads, keys, dim = 2, 37, 64
    q = RNG.standard_normal((heads, dim)).astype(np.float32)
    k, v = (RNG.standard_normal((heads, keys, dim)).astype(np.float32) for _ in range(2))
    out = Output(shape=(heads, dim), dtype=np.float32)
    strides = [np.uint64(keys * dim), np.uint64(dim)] * 2
    unused = np.zeros(4, np.int32)
    buffers = [q, k, v, out, np.int32(1), np.int32(keys), *strides, np.float32(dim**-0.5)]
    names = ["bool_mask", "float_mask", "has_mask", "has_sinks"]
    found = run_mlx(
        "sdpa_vector.h",
        "sdpa_vector",
        "float, 64, 64",
        buffers=dict(enumerate(buffers)) | dict.fromkeys(range(11, 18), unused),
        grid=(heads * 1024, 1, 1),
        threadgroup=(1024, 1, 1),
        function_constants=dict.fromkeys([*names, *range(20, 30)], False),
    )[3]
    scores = np.einsum("hd,hkd->hk", q, k).astype(np.float64) * dim**-0.5
    weights = np.exp(scores - scores.max(1, keepdims=True))
    expected = np.einsum("hk,hkd->hd", weights / weights.sum(1, keepdims=True), v)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
