"""Products with quantized weights: values, dtypes, refusals, and the choice of who serves them.

Values are held to a decoding of its own: rows as Python integers, values by the formats' tables.
"""

from __future__ import annotations

import re
from dataclasses import replace

import cases
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_close

import mlx_tilegemm as tg
from mlx_tilegemm import formats
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.plain import from_plain, to_plain
from mlx_tilegemm.core.reference import hold
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families import kernel_named, problem_types
from mlx_tilegemm.families.quantized.spec import variant
from mlx_tilegemm.families.quantized.spelling import parse
from mlx_tilegemm.machine import chips

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
BITS = (1, 2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
WEIGHTS = [
    *(("affine", bits, group) for bits in BITS for group in GROUPS),
    ("mxfp4", 4, 32),
    ("mxfp8", 8, 32),
    ("nvfp4", 4, 16),
]
FEW = [*(("affine", bits, 32 << bits % 3) for bits in BITS), *WEIGHTS[-3:]]
M4 = chips.get("m4")


def own_values(w: mx.array, scales: mx.array, biases: mx.array | None, mode, bits, group):
    """Return a weight in float64, decoded row by row from its stream of bits."""
    words, mask = np.array(w), (1 << bits) - 1
    rows = []
    for row in words.reshape(-1, words.shape[-1]):
        stream = int.from_bytes(row.astype("<u4").tobytes(), "little")
        rows.append([stream >> (bits * i) & mask for i in range(row.size * 32 // bits)])
    codes = np.array(rows).reshape(*words.shape[:-1], -1, group)
    if mode == "affine":
        factor, added = (as_floats(one)[..., None] for one in (scales, biases))
        return (codes * factor + added).reshape(*words.shape[:-1], -1)
    table = E2M1 if mode.endswith("fp4") else own_e4m3()
    scale = np.array(scales).astype(np.int64)
    factor = own_e4m3()[scale] if mode == "nvfp4" else 2.0 ** (scale - 127.0)
    return (table[codes] * factor[..., None]).reshape(*words.shape[:-1], -1)


def own_e4m3() -> np.ndarray:
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    value = np.where(
        exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0)
    )
    value[code & 127 == 127] = np.nan
    return np.where(code >= 128, -value, value)


def as_floats(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def made(seed, rows, columns, mode, bits, group, dtypes=(mx.float32, mx.float32), batch=()):
    """Return a weight with random codes and scales of both signs, none of them NaN."""
    random = np.random.default_rng(seed)
    if mode == "mxfp8":
        codes = random.integers(0, 127, (*batch, rows, columns)) + 128 * random.integers(
            0, 2, (*batch, rows, columns)
        )
        w = mx.array(codes.astype(np.uint8)).view(mx.uint32)
    else:
        words = random.integers(0, 1 << 32, (*batch, rows, columns * bits // 32), dtype=np.uint32)
        w = mx.array(words)
    shape = (*batch, rows, columns // group)
    if mode == "affine":
        scales, biases = (
            mx.array(0.2 * random.standard_normal(shape).astype(np.float32)).astype(dtype)
            for dtype in dtypes
        )
        return w, scales, biases
    if mode == "nvfp4":
        codes = random.integers(0, 0x50, shape) + 128 * random.integers(0, 2, shape)
        return w, mx.array(codes.astype(np.uint8)), None
    return w, mx.array(random.integers(120, 130, shape).astype(np.uint8)), None


def close(got, x, values, out, *, bias=None, factor=1.0, decode_roundings=1):
    """Assert a product of ``x`` with a decoded weight, within what float32 sums may be off."""
    left = as_floats(x)
    right = values
    value, size = left @ right * factor, np.abs(left) @ np.abs(right) * abs(factor)
    bound = (left.shape[-1] + 6 + decode_roundings) * 2.0**-24 * size
    if bias is not None:
        value, bound = value + as_floats(bias), bound + 2.0**-24 * np.abs(as_floats(bias))
    unit = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}[out]
    step = 2.0**-24 if out == mx.float16 else 2.0**-126
    assert got.dtype == out
    assert_close(got, value, bound + unit * (np.abs(value) + bound) + step)


def random_rows(seed, shape, dtype):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return mx.array(values).astype(dtype)


@pytest.mark.parametrize("transpose", [True, False], ids=["nt", "nn"])
@pytest.mark.parametrize("weight", FEW, ids=lambda one: "{}{}x{}".format(*one))
class TestEveryWeight:
    """Off every tile, in both layouts, by each kernel: few rows and many."""

    def test_few_rows(self, kernels, forced, weight, transpose):
        in_pairs = not transpose and weight[1] in (1, 3, 5)
        check("quantized_gemv", forced, weight, transpose, [2] if in_pairs else [3, 4])

    @pytest.mark.slow
    def test_many_rows(self, kernels, forced, weight, transpose):
        check("quantized_gemm/16x32-1x4", forced, weight, transpose, [19, 33, 1])


@pytest.mark.slow
@pytest.mark.parametrize("transpose", [True, False], ids=["nt", "nn"])
@pytest.mark.parametrize("weight", FEW[2::3], ids=lambda one: "{}{}x{}".format(*one))
def test_shares_of_k(kernels, forced, weight, transpose):
    # The last of the shares is the shortest, and ends within a step where groups allow it.
    depth = weight[2] * (900 // weight[2] | 1) if transpose else 611
    check("quantized_split_k/16x64-1x4-split4", forced, weight, transpose, [19, 33, 1], depth)


def check(kernel, forced, weight, transpose, counts, depth=0):
    mode, bits, group = weight
    n, k = (37, depth or 5 * group) if transpose else (3 * group, depth or 43)
    w, scales, biases = made(
        bits, *((n, k) if transpose else (k, n)), *weight, (mx.float16, mx.bfloat16)
    )
    values = own_values(w, scales, biases, *weight)
    for m in counts:
        x = random_rows(m, (m, k), mx.float16)
        with forced(kernel):
            got = tg.quantized_matmul(
                x, w, scales, biases, transpose, group, bits, mode, out_dtype=mx.bfloat16
            )
        assert got.shape == (m, n)
        close(got, x, values.T if transpose else values, mx.bfloat16)


@pytest.mark.slow
@given(data=st.data())
def test_any_weight_dtypes_layout_and_sizes(data, kernels):
    draw = data.draw
    mode, bits, group = draw(st.sampled_from(WEIGHTS))
    x_dtype, scales, biases, bias, out = (draw(st.sampled_from(FLOATS)) for _ in range(5))
    transpose = draw(st.booleans())
    grouped = group * draw(st.integers(1, 3))
    other = draw(st.sampled_from((1, 7, 8, 9, 31, 33, 65)))
    n, k = (other, grouped) if transpose else (grouped, other)
    w, scale, group_bias = made(
        draw(st.integers(0, 99)),
        *((n, k) if transpose else (k, n)),
        mode,
        bits,
        group,
        (scales, biases),
    )
    values = own_values(w, scale, group_bias, mode, bits, group)
    tensor = mx.array(draw(st.floats(0.125, 9e3, width=32))) if mode == "nvfp4" else None
    row = random_rows(7, (n,), bias) if draw(st.booleans()) else None
    for m in draw(st.lists(st.sampled_from((1, 2, 5, 8, 9, 17, 64, 67)), min_size=1, max_size=3)):
        x = random_rows(m, (m, k), x_dtype)
        got = tg.quantized_matmul(
            x,
            w,
            scale,
            group_bias,
            transpose,
            group,
            bits,
            mode,
            global_scale=tensor,
            bias=row,
            out_dtype=out,
        )
        factor = 1.0 if tensor is None else tensor.item() / 2688
        close(got, x, values.T if transpose else values, out, bias=row, factor=factor)


@pytest.fixture(params=["kernels", "mlx"])
def either(request):
    """Run the block's ops on this project's kernels, or on MLX's own op."""
    if request.param == "kernels":
        # Its block ends after this one's, so that no other may be around it.
        request.getfixturevalue("kernels")
        yield
    else:
        with tg.use_backend("mlx"):
            yield


LAYOUTS = {
    "a view from its second element on": lambda array: mx.concatenate(
        [array.reshape(-1)[:1], array.reshape(-1)]
    )[1:].reshape(array.shape),
    "transposed": lambda array: mx.contiguous(array.T).T,
    "rows of more": lambda array: mx.repeat(array, 2, axis=0)[::2],
    "columns of more": lambda array: mx.concatenate([array, array], axis=1)[:, : array.shape[1]],
    "backwards": lambda array: array[::-1, ::-1][::-1, ::-1],
}
"""Equal arrays that lie in memory in another way."""

W, SCALES, BIASES = made(1, 64, 128, "affine", 4, 64)
X = random_rows(2, (5, 128), mx.float32)


class TestKernels:
    @pytest.mark.parametrize("kernel", ["quantized_gemv", "quantized_gemm"])
    def test_codes_of_nan_and_of_infinite_scales_stay(self, kernels, forced, kernel):
        codes = np.zeros((8, 32), dtype=np.uint8)
        codes[0, 3], codes[1, 5], codes[2, :] = 0x7F, 0xFF, 0x38
        scales = mx.array([[127], [127], [255], [0], [1], [254], [127], [127]], dtype=mx.uint8)
        w = mx.array(codes).view(mx.uint32)
        with forced(kernel):
            got = tg.quantized_matmul(mx.ones((3, 32)), w, scales, mode="mxfp8")
        expected = [np.nan, np.nan, np.inf, 0, 0, 0, 0, 0]
        np.testing.assert_array_equal(np.array(got), [expected] * 3)

    @pytest.mark.parametrize("mode", ["mxfp4", "nvfp4"])
    def test_scales_from_the_smallest_to_the_largest(self, kernels, mode):
        _, bits, group = next(one for one in WEIGHTS if one[0] == mode)
        words = mx.full((256, group * bits // 32), 0x22222222, dtype=mx.uint32)
        scales = mx.arange(256).astype(mx.uint8)[:, None]
        got = tg.quantized_matmul(mx.ones((2, group)), words, scales, mode=mode)
        table = formats.decode(scales[:, 0], "e8m0" if mode == "mxfp4" else "e4m3")
        # A sum of sixteen or 32 of the largest scale is more than float32 holds.
        with np.errstate(over="ignore"):
            expected = (as_floats(table) * group).astype(np.float32)
        if mode == "mxfp4":
            expected[255] = np.inf
        smallest = np.abs(expected) < group * 2.0**-126
        np.testing.assert_array_equal(np.array(got)[0][~smallest], expected[~smallest])
        assert np.abs(np.array(got)[0][smallest]).max() <= group * 2.0**-125

    @pytest.mark.parametrize(
        ("x_shape", "batch"),
        [
            ((128,), ()),
            ((3, 2, 128), ()),
            ((128,), (3,)),
            ((2, 128), (3,)),
            ((3, 2, 128), (3,)),
            ((2, 1, 2, 128), (3,)),
            ((2, 3, 2, 128), (3,)),
            ((2, 128), (2, 3)),
            ((3, 1, 2, 128), (1, 2)),
        ],
        ids=str,
    )
    def test_batches_broadcast_as_those_of_matmul(self, either, x_shape, batch):
        w, scales, biases = made(3, 40, 128, "affine", 4, 64, batch=batch)
        values = own_values(w, scales, biases, "affine", 4, 64)
        x = random_rows(4, x_shape, mx.float32)
        got = tg.quantized_matmul(x, w, scales, biases)
        expected = np.matmul(as_floats(x), np.swapaxes(values, -1, -2))
        assert got.shape == expected.shape
        np.testing.assert_allclose(np.array(got), expected, rtol=1e-4, atol=2e-4)

    @pytest.mark.parametrize("kernel", ["quantized_gemv", "quantized_gemm"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_operands_may_lie_in_memory_in_any_way(self, kernels, forced, kernel, layout):
        operands = (X, W, SCALES, BIASES)
        with forced(kernel):
            expected = tg.quantized_matmul(*operands)
            for number, one in enumerate(operands):
                laid = [*operands[:number], LAYOUTS[layout](one), *operands[number + 1 :]]
                assert mx.array_equal(tg.quantized_matmul(*laid), expected)

    def test_rows_and_weights_that_are_repeated_without_copies(self, either):
        x = mx.broadcast_to(X[:1], (9, 128))
        weight = [mx.broadcast_to(one, (3, *one.shape)) for one in (W, SCALES, BIASES)]
        got = tg.quantized_matmul(x, *weight)
        expected = tg.quantized_matmul(X[:1], W, SCALES, BIASES)
        np.testing.assert_allclose(
            np.array(got), np.broadcast_to(expected, (3, 9, 64)), rtol=1e-5, atol=1e-5
        )

    def test_a_row_is_the_same_however_many_there_are(self, kernels):
        x = random_rows(5, (70, 128), mx.bfloat16)
        whole = tg.quantized_matmul(x, W, SCALES, BIASES, batch_invariant=True)
        for count in (1, 2, 9, 33):
            part = tg.quantized_matmul(x[:count], W, SCALES, BIASES, batch_invariant=True)
            assert mx.array_equal(part, whole[:count])

    def test_shares_are_added_up_before_all_else(self, kernels, forced):
        w, scales, _ = made(4, 40, 1040, "nvfp4", 4, 16)
        values = own_values(w, scales, None, "nvfp4", 4, 16)
        x, row = random_rows(6, (3, 7, 1040), mx.bfloat16), random_rows(7, (40,), mx.float16)

        def call():
            with forced("quantized_split_k"):
                return tg.quantized_matmul(
                    x,
                    w,
                    scales,
                    mode="nvfp4",
                    global_scale=mx.array(500.0),
                    bias=row,
                    out_dtype=mx.float32,
                )

        got = call()
        close(got, x, values.T, mx.float32, bias=row, factor=500 / 2688)
        assert mx.array_equal(got, call())

    @pytest.mark.parametrize("batch", [(), (0,)], ids=["one weight", "no weights"])
    def test_a_batch_of_no_products(self, either, batch):
        w, scales, biases = (mx.zeros((*batch, *a.shape), a.dtype) for a in (W, SCALES, BIASES))
        bias = mx.zeros((64,), mx.float16)
        got = tg.quantized_matmul(mx.zeros((0, 3, 128)), w, scales, biases, bias=bias)
        assert (got.shape, got.dtype) == ((0, 3, 64), mx.float32)

    def test_tiny_operands_are_mlx_s(self, kernels):
        w, scales, biases = made(1, 1, 32, "affine", 4, 32)
        x = random_rows(1, (3, 32), mx.float32)
        explained = tg.explain("quantized_matmul", x, w, scales, biases, group_size=32, bits=4)
        assert explained.plan is None
        assert "constant address space" in str(explained)
        got = tg.quantized_matmul(x, w, scales, biases, group_size=32, bits=4)
        close(got, x, own_values(w, scales, biases, "affine", 4, 32).T, mx.float32)


REFUSED_BY_MLX = {
    "no biases": lambda q: q(X, W, SCALES),
    "biases of a small float": lambda q: q(X, W, mx.zeros((64, 4), mx.uint8), BIASES, mode="mxfp4"),
    "float scales": lambda q: q(X, W, SCALES, mode="mxfp4"),
    "int scales": lambda q: q(X, W, SCALES.astype(mx.int32), BIASES.astype(mx.int32)),
    "a signed weight": lambda q: q(X, W.view(mx.int32), SCALES, BIASES),
    "another k": lambda q: q(X[:, :64], W, SCALES, BIASES),
    "another k, not transposed": lambda q: q(X, W, SCALES, BIASES, False),
    "another group": lambda q: q(X, W, SCALES, BIASES, group_size=32),
    "other bits": lambda q: q(X, W, SCALES, BIASES, bits=8),
    "biases of another shape": lambda q: q(X, W, SCALES, BIASES[:1]),
    "a batch of scales": lambda q: q(X, mx.stack([W, W]), SCALES, BIASES),
    "an unknown mode": lambda q: q(X, W, SCALES, BIASES, mode="foo"),
    "complex x": lambda q: q(X.astype(mx.complex64), W, SCALES, BIASES),
    "int x beside small floats": lambda q: q(
        mx.ones((5, 128), mx.int32), W, mx.zeros((64, 4), mx.uint8), mode="mxfp4"
    ),
}


class TestMlx:
    """What MLX's own op says, on its backend and on ours."""

    @pytest.mark.parametrize("x", [*FLOATS, mx.int32, mx.uint8, mx.bool_], ids=str)
    @pytest.mark.parametrize("scales", FLOATS, ids=str)
    @pytest.mark.parametrize("biases", FLOATS, ids=str)
    def test_result_dtypes(self, x, scales, biases):
        call = (X.astype(x), W, SCALES.astype(scales), BIASES.astype(biases))
        with tg.use_backend("mlx"):
            assert tg.quantized_matmul(*call).dtype == mx.quantized_matmul(*call).dtype

    @pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
    @pytest.mark.parametrize("x", FLOATS, ids=str)
    def test_result_dtypes_of_small_floats(self, mode, x):
        w, scales = mx.quantize(mx.ones((8, 64)), mode=mode)
        assert tg.quantized_matmul(mx.ones((3, 64), x), w, scales, mode=mode).dtype == x

    @pytest.mark.parametrize("weight", WEIGHTS, ids=lambda one: "{}{}x{}".format(*one))
    @pytest.mark.parametrize("transpose", [True, False], ids=["nt", "nn"])
    def test_values_on_its_backend_are_rounded_once(self, weight, transpose):
        mode, bits, group = weight
        n, k = (17, 2 * group) if transpose else (2 * group, 17)
        w, scales, biases = made(9, *((n, k) if transpose else (k, n)), *weight)
        x = random_rows(1, (3, k), mx.bfloat16)
        values = own_values(w, scales, biases, *weight)
        with tg.use_backend("mlx"):
            got = tg.quantized_matmul(
                x, w, scales, biases, transpose, group, bits, mode, out_dtype=mx.float16
            )
        close(got, x, values.T if transpose else values, mx.float16, decode_roundings=4)

    @pytest.mark.parametrize("name", REFUSED_BY_MLX)
    def test_refusals_are_in_its_words(self, name):
        with pytest.raises(ValueError, match=r"quantized_matmul") as mlx:
            mx.eval(REFUSED_BY_MLX[name](mx.quantized_matmul))
        with pytest.raises(tg.errors.TileGemmError, match=re.escape(str(mlx.value))):
            REFUSED_BY_MLX[name](tg.quantized_matmul)


REFUSED = [
    (
        "float64",
        lambda q: q(mx.ones((5, 128), mx.float64), W, SCALES, BIASES),
        "x.dtype() == float64",
    ),
    (
        "scales of too few rows",
        lambda q: q(X, W, SCALES[:3], BIASES[:3]),
        "every row of the weight, (64,2), got (3,2)",
    ),
    ("a scalar", lambda q: q(mx.ones(()), W, SCALES, BIASES), "at least one dimension"),
    (
        "a vector of words",
        lambda q: q(X, W[0], SCALES, BIASES),
        "a weight of at least two dimensions",
    ),
    ("seven bits", lambda q: q(X, W, SCALES, BIASES, bits=7), "number of bits 7 is not supported"),
    (
        "groups of 16",
        lambda q: q(X, W, SCALES, BIASES, group_size=16),
        "group size 16 is not supported",
    ),
    ("no groups", lambda q: q(X, W, SCALES, BIASES, group_size=0), "group size 0 is not supported"),
    (
        "groups of mxfp4",
        lambda q: q(X, W, mx.zeros((64, 4), mx.uint8), group_size=64, mode="mxfp4"),
        "mxfp4 quantization requires group size 32 but got 64",
    ),
    (
        "batches",
        lambda q: q(mx.ones((2, 5, 128)), *(mx.stack([a] * 3) for a in (W, SCALES, BIASES))),
        "batch axes that broadcast",
    ),
    (
        "a bias of rows",
        lambda q: q(X, W, SCALES, BIASES, bias=mx.ones((5,))),
        "bias of the result's columns, (64), got (5)",
    ),
    (
        "an int bias",
        lambda q: q(X, W, SCALES, BIASES, bias=mx.ones((64,), mx.int32)),
        "bias of float32",
    ),
    (
        "an int result",
        lambda q: q(X, W, SCALES, BIASES, out_dtype=mx.int32),
        "floating point out_dtype",
    ),
    (
        "a tensor scale",
        lambda q: q(X, W, SCALES, BIASES, global_scale=mx.array(1.0)),
        "only supported for 'nvfp4'",
    ),
    (
        "a half tensor scale",
        lambda q: q(
            X, W, mx.zeros((64, 8), mx.uint8), mode="nvfp4", global_scale=mx.array(1.0, mx.float16)
        ),
        "must have dtype float32 but got float16",
    ),
    (
        "no rows",
        lambda q: q(X[:0], W, SCALES, BIASES),
        "with rows, columns and terms, got m 0, n 64",
    ),
    (
        "no rows of a batch",
        lambda q: q(mx.zeros((2, 0, 128)), W, SCALES, BIASES),
        "rows, columns and terms, got m 0, n 64",
    ),
    (
        "no columns",
        lambda q: q(X, W[:0], SCALES[:0], BIASES[:0]),
        "rows, columns and terms, got m 5, n 0, k 128",
    ),
    (
        "no terms",
        lambda q: q(mx.ones((3, 0)), W[:, :0], SCALES[:, :0], BIASES[:, :0]),
        "rows, columns and terms, got m 3, n 64, k 0",
    ),
    ("a list", lambda q: q([1.0], W, SCALES, BIASES), "Expected x to be an mlx.core.array"),
    (
        "a mode that is none",
        lambda q: q(X, W, SCALES, BIASES, mode=4),
        "Expected mode to be a string",
    ),
    (
        "bits of a float",
        lambda q: q(X, W, SCALES, BIASES, bits=4.0),
        "Expected bits to be None or a whole",
    ),
    (
        "transpose of a string",
        lambda q: q(X, W, SCALES, BIASES, "no"),
        "Expected transpose to be a bool",
    ),
]


@pytest.mark.parametrize(("name", "call", "text"), REFUSED, ids=[one[0] for one in REFUSED])
def test_what_mlx_does_not_check_is_refused(name, call, text):
    with pytest.raises(tg.errors.TileGemmError, match=re.escape(text)):
        call(tg.quantized_matmul)


def spec(*shape, dtype=mx.bfloat16):
    return tg.ArraySpec(shape=shape, dtype=dtype)


class TestChoice:
    def explained(self, m, chip, *, n=14336, k=4096, scales=mx.bfloat16, transpose=True, **options):
        rows, columns = (n, k) if transpose else (k, n)
        return tg.explain(
            tg.quantized_matmul,
            spec(m, k),
            spec(rows, columns // 8, dtype=mx.uint32),
            spec(rows, columns // 64, dtype=scales),
            spec(rows, columns // 64, dtype=scales),
            transpose=transpose,
            chip=chip,
            **options,
        )

    @pytest.mark.parametrize(
        ("m", "kernel"),
        [
            (4, "quantized_gemv"),
            (8, "quantized_gemv"),
            (16, "quantized_gemm"),
            (512, "quantized_gemm"),
        ],
    )
    def test_rows_decide(self, m, kernel):
        found = self.explained(m, "m1")
        assert found.plan.kernel == kernel
        assert found.mlx.seconds > 1.1 * min(one.seconds for one in found.candidates if one.seconds)

    @pytest.mark.parametrize(("m", "rows"), [(12, 16), (16, 16), (17, 32), (32, 32)])
    def test_k_is_shared_out_where_columns_are_few(self, m, rows):
        found = self.explained(m, "m2-ultra", n=4096, k=14336)
        assert str(found.plan).startswith(f"quantized_split_k/{rows}x64-1x4-split")
        whole = min(one.seconds for one in found.candidates if one.kernel == "quantized_gemm")
        split = min(one.seconds for one in found.candidates if one.kernel == "quantized_split_k")
        assert split < 0.7 * whole
        assert found.mlx.seconds > split

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"batch_invariant": True}, "batch_invariant"),
            ({"k": 256}, "k 256 is too short for 4 shares"),
        ],
        ids=["batch_invariant", "short"],
    )
    def test_shares_that_may_not_be(self, options, reason):
        found = self.explained(16, "m1", **{"n": 1024, **options})
        shares = [one for one in found.candidates if one.kernel == "quantized_split_k"]
        assert all(one.reason and reason.split(" for ")[0] in one.reason for one in shares)
        assert reason in shares[0].reason

    @pytest.mark.parametrize("chip", ["m1", "m1-max", "m2-ultra", "m3-max", "m4", "m4-max"])
    @pytest.mark.parametrize("m", range(2, 9))
    def test_a_few_rows_take_less_than_mlx_s_passes(self, m, chip):
        found = self.explained(m, chip)
        assert found.plan.kernel == "quantized_gemv"
        legal = [one for one in found.candidates if one.reason is None]
        best = min(one.seconds for one in legal if one.kernel == "quantized_gemv")
        assert best < 1.05 * found.mlx.seconds

    def test_the_shares_of_mlx_are_priced(self):
        # Of 512 tiles at most, whole groups of k.
        for n, m, path in (
            (4096, 16, "split4"),
            (4096, 33, "split2"),
            (1024, 16, "split16"),
            (14336, 16, "qmm-32x32x32-2x2"),
        ):
            assert self.explained(m, "m1", n=n).mlx.config.endswith(path)

    @pytest.mark.parametrize("chip", ["m1", "m1-max", "m4-max"])
    @pytest.mark.parametrize(
        ("m", "kernel"),
        [(1, "gemv"), (4, "gemv"), (8, "gemv"), (16, "gemm"), (64, "gemm"), (512, "gemm")],
    )
    def test_the_gradient_s_product_is_served_for_all_rows(self, m, kernel, chip):
        found = self.explained(m, chip, transpose=False)
        assert found.plan.kernel == f"quantized_{kernel}"
        assert (
            min(one.seconds for one in found.candidates if one.seconds)
            < (1.05 if m == 1 else 1.0) * found.mlx.seconds
        )

    def test_mlx_serves_where_it_is_faster(self):
        assert self.explained(512, "m5-max").plan is None
        assert "neural-qmm" in str(self.explained(512, "m5-max"))

    def test_copies_of_other_dtypes_are_priced(self):
        same, mixed = (
            self.explained(1, "m4-max", scales=dtype, out_dtype=mx.bfloat16)
            for dtype in (mx.bfloat16, mx.float16)
        )
        assert mixed.mlx.seconds > 1.2 * same.mlx.seconds
        assert "bytes of copies" in str(mixed)
        assert mixed.plan.kernel == "quantized_gemv"

    def test_a_weight_of_many_rows_is_read_once(self):
        found = self.explained(5, "m4-max", batch_invariant=False)
        legal = [one for one in found.candidates if one.reason is None]
        assert {one.plan.config.rows for one in legal if one.kernel == "quantized_gemv"} == {6}

    def test_notes(self):
        found = str(self.explained(16, "m4-max"))
        assert "4.5 bits an element" in found
        with tg.use_backend("mlx"):
            assert "into copies of float32 first" in str(
                self.explained(16, "m4-max", scales=mx.float16)
            )

    def test_the_command_line_spells_problems(self):
        for text, shape in (
            ("8x4096x512:bf16,f16:affine4x64", (8, 4096, 512, "affine4x64", "nt")),
            ("8x4096x512:bf16:mxfp8-nn", (8, 4096, 512, "mxfp8", "nn")),
            ("8x4096x512", (8, 4096, 512, "affine4x64", "nt")),
        ):
            problem = parse(text)
            assert (problem.m, problem.n, problem.k, str(problem.weight), problem.layout) == shape
            assert from_plain(to_plain(problem, problem_types()), problem_types()) == problem
        for wrong in (
            "8x4096",
            "8x64x96:f16:affine4x64",
            "8x64x64:f16:int4",
            "8x64x64:f16:affine",
            "8x64x64:f16:affine7x64",
            "8x64x64:f16:mxfp4-tt",
        ):
            with pytest.raises(tg.errors.ProblemError):
                parse(wrong)


def test_every_small_problem_of_a_plan_has_its_text():
    problem = variant(700, 4096, 4096, x_batch=(4, 2), w_batch=(2,), bits=3)
    plan = choose(problem, M4).plan
    kernel = kernel_named(plan.kernel)
    specs = [stage.spec for stage in plan.stages]
    small = [
        one
        for one in problem.smaller()
        if not kernel.reject(one, plan.config, M4)
        and [stage.spec for stage in kernel.plan(one, plan.config).stages] == specs
    ]
    assert small
    assert all(one.m < 150 and one.batch_size <= 6 for one in small)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("mode", ["affine", "mxfp4", "mxfp8", "nvfp4"])
def test_the_family_s_reference_is_that_of_these_tests(mode, exact):
    problem = variant(5, 40, 192, mode=mode, transpose=False, x_batch=(2,), w_batch=(2,))
    operands = cases.operands(problem, cases.Data(seed=3, exact=exact))
    given = dict(zip(problem.operand_names, operands, strict=True))
    one = problem.weight
    values = own_values(
        given["w"], given["scales"], given.get("biases"), one.mode, one.bits, one.group
    )
    (expected,) = cases.expected(problem, operands)
    np.testing.assert_allclose(
        expected.value, as_floats(given["x"]) @ values, rtol=1e-12, atol=1e-9
    )
    numbers = ~np.isnan(expected.value)
    assert numbers.mean() > 0.9
    assert (expected.bound[numbers] < 1e-2 * np.nanmax(np.abs(expected.value))).all()


def test_part_of_a_call_is_held_like_the_whole():
    problem = variant(60, 40, 64)
    operands = cases.operands(problem, cases.Data(seed=1))
    kernel = kernel_named("quantized_gemm")
    config = next(iter(kernel.candidates(problem, M4)))
    outputs = kernel_run(problem, kernel.plan(problem, config), backend_named("emulator"))(
        operands, (), None
    )
    from mlx_tilegemm.families import family_of

    part = family_of(problem).part(problem, operands, outputs, 7)
    assert part.problem.m == 7
    assert hold(part.problem, part.outputs, cases.expected(part.problem, part.operands))[1] == []
    wrong = replace(part, outputs=[part.outputs[0] + 1])
    assert hold(part.problem, wrong.outputs, cases.expected(part.problem, part.operands))[1]
