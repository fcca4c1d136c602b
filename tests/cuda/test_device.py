"""Kernels on an NVIDIA GPU: what MLX's CUDA build and NVRTC make of them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from cuda_cases import PRODUCT, SIMD_CASES

import mlx_tilegemm as tg
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.cuda import metal_kernel, settings

MISSING = backend_named("cuda").missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")


def run(kernel, inputs, shape, dtype, *, grid, group, **options):
    (out,) = kernel(
        inputs=inputs,
        output_shapes=[shape],
        output_dtypes=[dtype],
        grid=grid,
        threadgroup=group,
        stream=mx.gpu,
        **options,
    )
    return out


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_products_of_matrices(dtype, exact):
    rng = np.random.default_rng(3)
    a, b = (
        mx.array(rng.normal(size=s), dtype=mx.float32).astype(dtype) for s in ((8, 24), (24, 8))
    )
    kernel = metal_kernel("product", ["a", "b"], ["c"], PRODUCT)
    with settings(exact=exact):
        c = run(
            kernel,
            [a, b],
            (8, 8),
            mx.float32,
            grid=(32, 1, 1),
            group=(32, 1, 1),
            template=[("T", dtype)],
        )
    wide = [np.array(x.astype(mx.float32)).astype(np.float64) for x in (a, b)]
    bound = 24 * 2.0**-23 * (np.abs(wide[0]) @ np.abs(wide[1]))
    assert np.all(np.abs(np.array(c) - wide[0] @ wide[1]) <= bound)


@pytest.mark.parametrize("renumbered", [False, True])
@pytest.mark.parametrize("case", SIMD_CASES, ids=lambda case: case.name)
def test_simd_functions(case, renumbered):
    source = f"""
    uint lane = thread_index_in_simdgroup;
    float v = x[thread_position_in_threadgroup.x];
    y[thread_position_in_threadgroup.x] = {case.expression};
    """
    if renumbered:
        source += (
            "simdgroup_matrix<float, 8, 8> unused(1.0f); y[0] += 0 * unused.thread_elements()[0];"
        )
    kernel = metal_kernel(f"simd_{case.name}", ["x"], ["y"], source)
    v = np.arange(32, dtype=np.float32)[::-1].copy() + 1
    y = run(kernel, [mx.array(v)], (32,), mx.float32, grid=(32, 1, 1), group=(32, 1, 1))
    expected = eval(case.expected, {"np": np, "v": v, "lane": np.arange(32), "sum": sum})
    assert np.array_equal(np.array(y), expected)


def test_lanes_that_have_ended_are_left_out():
    source = """
    uint i = thread_position_in_grid.x;
    if (i >= 21) { y[i] = 0; return; }
    y[i] = simd_sum(x[i]);
    """
    x = mx.arange(32, dtype=mx.float32)
    kernel = metal_kernel("ended", ["x"], ["y"], source)
    y = run(kernel, [x], (32,), mx.float32, grid=(32, 1, 1), group=(32, 1, 1))
    assert y.tolist() == [210.0] * 21 + [0.0] * 11


@pytest.mark.parametrize("group", [(7, 3, 2), (32, 1, 1), (50, 9, 2)])
def test_a_grid_may_end_inside_a_threadgroup(group):
    source = """
    uint3 p = thread_position_in_grid, n = threads_per_grid;
    y[(p.z * n.y + p.y) * n.x + p.x] = int(1 + thread_index_in_threadgroup);
    """
    kernel = metal_kernel("trimmed", [], ["y"], source)
    y = np.array(run(kernel, [], (3, 10, 45), mx.int32, grid=(45, 10, 3), group=group))
    assert y.min() == 1
    sizes = [min(a, b) for a, b in zip(group, (45, 10, 3), strict=True)]
    assert y.max() == np.prod(sizes)


def test_more_threadgroups_than_cuda_takes_in_z():
    source = "uint3 p = thread_position_in_grid; y[p.z * 2 + p.x] = int(p.z);"
    kernel = metal_kernel("deep", [], ["y"], source)
    y = run(kernel, [], (70_000, 2), mx.int32, grid=(2, 1, 70_000), group=(2, 1, 1))
    assert mx.array_equal(y[:, 1], mx.arange(70_000))


def test_shapes_strides_and_scalars():
    source = """
    uint i = thread_position_in_grid.x;
    y[i] = x[elem_to_loc(i, x_shape, x_strides, x_ndim)] * scale + float(x_strides[0]);
    """
    kernel = metal_kernel("strided", ["x", "scale"], ["y"], source, ensure_row_contiguous=False)
    x = mx.arange(12, dtype=mx.float32).reshape(3, 4).T
    y = run(kernel, [x, 2.5], (12,), mx.float32, grid=(12, 1, 1), group=(12, 1, 1))
    assert mx.array_equal(y, x.reshape(-1) * 2.5 + 3)


def test_atomics_and_initial_values():
    source = """
    uint i = thread_position_in_grid.x;
    atomic_fetch_add_explicit(&y[x[i] % 4], 1, memory_order_relaxed);
    atomic_fetch_max_explicit(&y[4], x[i], memory_order_relaxed);
    """
    kernel = metal_kernel("counts", ["x"], ["y"], source, atomic_outputs=True)
    x = mx.arange(10_000, dtype=mx.int32)
    y = run(kernel, [x], (5,), mx.int32, grid=(10_000, 1, 1), group=(250, 1, 1), init_value=0)
    assert y.tolist() == [2500] * 4 + [9999]


def test_calls_are_lazy_and_traced():
    kernel = metal_kernel(
        "twice", ["x"], ["y"], "uint i = thread_position_in_grid.x; y[i] = 2 * x[i];"
    )

    @mx.compile
    def function(x):
        return run(kernel, [x + 1], x.shape, x.dtype, grid=(64, 1, 1), group=(64, 1, 1)) + 1

    for seed in range(2):
        x = mx.arange(64, dtype=mx.float32) + seed
        assert mx.array_equal(function(x), 2 * (x + 1) + 1)


@pytest.mark.parametrize("exact", [False, True])
def test_an_op_of_mixed_dtypes(exact):
    rng = np.random.default_rng(0)
    a = mx.array(rng.normal(size=(33, 129)), dtype=mx.float32).astype(mx.float16)
    b = mx.array(rng.normal(size=(129, 65)), dtype=mx.float32).astype(mx.bfloat16)
    with tg.use_backend("cuda"), tg.use_kernel("any"), settings(exact=exact):
        y = np.array(tg.matmul(a, b, stream=mx.gpu).astype(mx.float32))
    wide = [np.array(x.astype(mx.float32)).astype(np.float64) for x in (a, b)]
    scale = np.abs(wide[0]) @ np.abs(wide[1])
    assert np.all(np.abs(y - wide[0] @ wide[1]) <= (129 * 2.0**-23) * scale)


NOT_FINITE = (np.inf, -np.inf, np.nan)
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@pytest.mark.parametrize("value", [*NOT_FINITE, 3.4e38])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "names",
    [
        ("float32", "float32"),
        ("float16", "float32"),
        ("float32", "bfloat16"),
        ("float16", "float16"),
    ],
    ids=str,
)
def test_what_is_not_finite_stays_so(names, side, value):
    """Tensor cores make parts of a float32, and parts of an infinity may cancel."""
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(40, 64)), rng.normal(size=(64, 48))
    # Whole numbers leave nothing of themselves, nor does a zero.
    left[::2], right[:, ::3], left[3], right[:, 5] = np.round(left[::2]), 1.0, 0.0, 0.0
    if side == "left":
        left[7, 9] = value
    else:
        right[9, 7] = value
    a, b = (
        mx.array(one, dtype=mx.float32).astype(DTYPES[name])
        for one, name in zip((left, right), names, strict=True)
    )
    with tg.use_backend("cuda"), tg.use_kernel("gemm_simdgroup"):
        y = np.array(tg.matmul(a, b, out_dtype=mx.float32, stream=mx.gpu))
    wide = [np.array(x.astype(mx.float32)).astype(np.float64) for x in (a, b)]
    with np.errstate(invalid="ignore", over="ignore"):
        wanted, scale = wide[0] @ wide[1], np.abs(wide[0]) @ np.abs(wide[1])
        rounded = wanted.astype(np.float32)
    finite = np.isfinite(rounded)
    assert np.array_equal(y[~finite], rounded[~finite], equal_nan=True)
    assert np.all(np.abs(y[finite] - wanted[finite]) <= 64 * 2.0**-23 * scale[finite])


@pytest.mark.parametrize("value", [1.0, *NOT_FINITE])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ("float16", "bfloat16", "bfloat16"),
        ("bfloat16", "bfloat16", "float16"),
        ("float16", "float16", "float16"),
        ("float32", "bfloat16", "float16"),
        ("float32", "float32", "float32"),
    ],
    ids=str,
)
def test_attention_of_sixteen_rows(names, softmax, value):
    """Operands of 16 bits come from threadgroup memory as they are, a few rows at a time."""
    rng = np.random.default_rng(2)
    shapes = ((1, 4, 75, 48), (1, 2, 71, 48), (1, 2, 71, 56))
    arrays = [rng.normal(size=shape) for shape in shapes]
    arrays[2][0, 1, 40, 9] = value
    q, k, v = (
        mx.array(one, dtype=mx.float32).astype(DTYPES[name])
        for one, name in zip(arrays, names, strict=True)
    )
    config = "64x32-staged-tall" if "float16" in names else "32x16-staged-tall"
    with tg.use_backend("cuda"), tg.use_kernel(f"attention_chain/{config}"):
        out = tg.attention_chain(
            q, k, v, softmax=softmax, scale=0.3, out_dtype=mx.float32, stream=mx.gpu
        )
    wide = [np.array(x.astype(mx.float32)).astype(np.float64) for x in (q, k, v)]
    scores = 0.3 * wide[0] @ np.repeat(wide[1], 2, axis=1).swapaxes(-1, -2)
    weights = np.exp(scores - scores.max(-1, keepdims=True)) if softmax else scores
    weights = weights / weights.sum(-1, keepdims=True) if softmax else weights
    values = np.repeat(wide[2], 2, axis=1)
    with np.errstate(invalid="ignore"):
        wanted, scale = weights @ values, np.abs(weights) @ np.abs(values)
    got, finite = np.array(out), np.isfinite(wanted)
    assert np.array_equal(got[~finite], wanted[~finite].astype(np.float32), equal_nan=True)
    room = 2.0**-23 * (71 + 8 * 48) * (1 + np.abs(scores).max())
    assert np.all(np.abs(got[finite] - wanted[finite]) <= room * scale[finite])


@pytest.mark.parametrize("value", [1.0, 65504.0, 2.0**-24, *NOT_FINITE])
@pytest.mark.parametrize("config", ["64x32-staged-tall", "32x16-staged-tall"])
@pytest.mark.parametrize(
    "names", [("float16", "bfloat16"), ("bfloat16", "float16"), ("float16", "float16")], ids=str
)
def test_queries_of_sixteen_rows(names, config, value):
    """Two numbers of eight bits are one of eleven: the largest, the smallest, and none at all."""
    rng = np.random.default_rng(3)
    arrays = [rng.uniform(0.5, 2, (1, 2, rows, 64)) for rows in (40, 71, 71)]
    arrays[0][0, 1, 7] = value
    q, k, v = (
        mx.array(one, dtype=mx.float32).astype(DTYPES[name])
        for one, name in zip(arrays, (*names, names[1]), strict=True)
    )
    with tg.use_backend("cuda"), tg.use_kernel(f"attention_chain/{config}"):
        out = tg.attention_chain(q, k, v, softmax=False, out_dtype=mx.float32, stream=mx.gpu)
    wide = [np.array(x.astype(mx.float32)).astype(np.float64) for x in (q, k, v)]
    wanted = wide[0] @ wide[1].swapaxes(-1, -2) @ wide[2]
    got, finite = np.array(out), np.isfinite(wanted)
    assert np.array_equal(got[~finite], wanted[~finite].astype(np.float32), equal_nan=True)
    assert np.all(np.abs(got[finite] - wanted[finite]) <= 2.0**-23 * 135 * wanted[finite])


@pytest.mark.parametrize("length", [70, 700])
@pytest.mark.parametrize("config", ["64x32-staged-tall", "32x32-staged"])
def test_every_block_of_a_causal_mask_is_computed_once(config, length):
    """They begin in an order of their own, in fewer threadgroups than a GPU holds, and in more."""
    mx.random.seed(5)
    q, k, v = (mx.random.normal((2, heads, length, 32)) for heads in (32, 8, 8))
    with tg.use_backend("cuda"), tg.use_kernel(f"attention_chain/{config}"):
        found = tg.attention_chain(q.astype(mx.float16), k, v, mask="causal", stream=mx.gpu)
    wide = [np.array(x, dtype=np.float64) for x in (q.astype(mx.float16), k, v)]
    keys, values = (np.repeat(x, 4, axis=1) for x in wide[1:])
    scores = wide[0] @ keys.swapaxes(-1, -2) / np.sqrt(32)
    scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ values
    assert np.allclose(np.array(found), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("value", [1e38, -1e38])
def test_values_that_nobody_sees_add_nothing(value):
    """However large they are: weights of zero have no rest."""
    q, k = mx.ones((1, 1, 16, 32), mx.float16), mx.ones((1, 1, 32, 32), mx.bfloat16)
    v = mx.concatenate([k[:, :, :20], mx.full((1, 1, 12, 32), value, mx.bfloat16)], axis=2)
    seen = mx.arange(32) < 20
    with tg.use_backend("cuda"), tg.use_kernel("attention_chain/32x16-staged-tall"):
        out = tg.attention_chain(q, k, v, mask=seen, out_dtype=mx.float32, stream=mx.gpu)
    assert mx.allclose(out, mx.ones(out.shape), rtol=0, atol=1e-6)


def test_the_larger_and_the_smaller_of_a_number_and_a_nan():
    kernel = metal_kernel(
        "larger",
        ["a", "b"],
        ["y"],
        "const uint i = thread_position_in_grid.x; y[2 * i] = max(a[i], b[i]);"
        "y[2 * i + 1] = min(a[i], b[i]);",
    )
    a, b = mx.array([1.0, np.nan, 2.0, -np.inf]), mx.array([np.nan, 3.0, -5.0, np.nan])
    (y,) = kernel(
        inputs=[a, b],
        output_shapes=[(8,)],
        output_dtypes=[mx.float32],
        grid=(4, 1, 1),
        threadgroup=(4, 1, 1),
    )
    assert y.tolist() == [1.0, 1.0, 3.0, 3.0, 2.0, -5.0, -np.inf, -np.inf]


def beginning(array, first):
    """The array, where it begins so many elements after a boundary of vectors."""
    flat = mx.reshape(array, (-1,))
    longer = mx.concatenate([mx.zeros((first,), flat.dtype), flat])
    mx.eval(longer)
    found = longer[first:].reshape(array.shape)
    mx.eval(found)
    return found


def operands_of(kernel):
    mx.random.seed(3)
    q, k = mx.random.normal((1, 4, 1, 64)), mx.random.normal((1, 2, 70, 64))
    x, w = mx.random.normal((3, 256)), mx.random.normal((40, 256))
    codes = tg.formats.encode(w, "e4m3")
    return {
        "gemv": (x.astype(mx.float16), w.astype(mx.bfloat16)),
        "gemv, odd k": (x[:, :43].astype(mx.bfloat16), w[:, :43].astype(mx.float16)),
        "quantized_gemv": (x.astype(mx.float16), *mx.quantize(w, 64, 4)),
        "scaled_gemv": (x.astype(mx.bfloat16), codes, mx.ones((40, 1))),
        "attention_decode": (q.astype(mx.float16), k.astype(mx.bfloat16), k.astype(mx.float16)),
    }[kernel]


ANYWHERE = {
    "gemv": lambda x, w: tg.matmul(x, w.T),
    "gemv, odd k": lambda x, w: tg.matmul(x, w.T),
    "quantized_gemv": tg.quantized_matmul,
    "scaled_gemv": lambda x, codes, scales: tg.fp8_scaled_matmul(
        x, codes, None, scales, b_format="e4m3", transpose_b=True
    ),
    "attention_decode": tg.attention_chain,
}


@pytest.mark.parametrize("first", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("kernel", ANYWHERE)
def test_operands_may_begin_anywhere(kernel, first):
    """Neighbours are read as vectors, which MLX's views need not lie on the boundaries of."""
    arrays = operands_of(kernel)
    moved = [beginning(one, first + place) for place, one in enumerate(arrays)]
    with tg.use_backend("cuda"), tg.use_kernel(kernel.split(",")[0]):
        wanted, found = ANYWHERE[kernel](*arrays), ANYWHERE[kernel](*moved)
    assert mx.array_equal(found, wanted)
    assert mx.any(wanted != 0)
