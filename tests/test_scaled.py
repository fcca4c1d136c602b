"""Products of scaled codes: values, dtypes, refusals, and the choice of who serves them.

Values are held to a decoding of its own, by the formats' tables, in float64.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import ceil

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
from mlx_tilegemm.cli import main
from mlx_tilegemm.core import mlx_ops
from mlx_tilegemm.core.dtypes import FLOAT8_E4M3, FLOAT32
from mlx_tilegemm.core.plain import from_plain, to_plain
from mlx_tilegemm.core.reference import hold
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families import family_of, kernel_named, problem_types
from mlx_tilegemm.families.scaled.spec import ROWS, block_scaling, variant
from mlx_tilegemm.families.scaled.spelling import parse
from mlx_tilegemm.machine import chips

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
FORMATS = ("e4m3", "e5m2", "int8")
KINDS = ("none", "tensor", "row", "block", "power")
M4 = chips.get("m4")


def small_float(exponent_bits: int, mantissa_bits: int) -> np.ndarray:
    """Return the value of each code, by the definition of the format."""
    code = np.arange(256)
    exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
    fraction = (code & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    bias = (1 << exponent_bits - 1) - 1
    value = np.where(
        exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias)
    )
    if (exponent_bits, mantissa_bits) == (4, 3):
        value[code & 127 == 127] = np.nan
    else:
        value[code & 127 == 124] = np.inf
        value[code & 127 > 124] = np.nan
    return np.where(code >= 128, -value, value)


TABLES = {
    "e4m3": small_float(4, 3),
    "e5m2": small_float(5, 2),
    "int8": np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64),
    "e8m0": np.append(2.0 ** (np.arange(255) - 127), np.nan),
}


def as_floats(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def own_values(codes: mx.array, form: str | None) -> np.ndarray:
    if form is None:
        return as_floats(codes)
    return TABLES[form][np.array(codes).view(np.uint8)]


def own_scales(scales: mx.array | None, shape, block) -> np.ndarray:
    """Return a scale for each element of a matrix ``[rows, k]``, by what a block is."""
    if scales is None:
        return np.ones(shape)
    values = TABLES["e8m0"][np.array(scales)] if scales.dtype == mx.uint8 else as_floats(scales)
    rows, depth = shape[-2:]
    height, width = block
    across = np.repeat(values, height, axis=-2)[..., :rows, :]
    return np.broadcast_to(np.repeat(across, width, axis=-1)[..., :depth], shape)


def made_codes(random, form, shape) -> mx.array:
    """Return codes of every finite number of a format."""
    if form == "int8":
        return mx.array(random.integers(-128, 128, shape).astype(np.int8))
    codes = random.integers(0, 127 if form == "e4m3" else 124, shape)
    return mx.array((codes + 128 * random.integers(0, 2, shape)).astype(np.uint8))


def made_scales(random, kind, rows, depth, dtype, block):
    """Return scales of a kind, and the size of what each is of."""
    if kind == "none":
        return None, (rows, depth)
    if kind == "power":
        scales = random.integers(118, 132, (rows, ceil(depth / 32))).astype(np.uint8)
        return mx.array(scales), (1, 32)
    height, width = {"tensor": (rows, depth), "row": (1, depth)}.get(kind, block)
    shape = (ceil(rows / height), ceil(depth / width))
    scales = random.choice([-1, 1], shape) * random.uniform(0.01, 0.1, shape)
    return mx.array(scales.astype(np.float32)).astype(dtype), (height, width)


class Case:
    """Operands of one product and their values in float64."""

    def __init__(self, seed, n, k, *, a, b, a_kind="none", b_kind="none", nt=True, **dtypes):
        self.random = np.random.default_rng(seed)
        self.n, self.k, self.a, self.b, self.a_kind, self.nt = n, k, a, b, a_kind, nt
        self.block = dtypes.get("block", (128, 128))
        self.a_dtype = dtypes.get("a_dtype", mx.float32)
        self.scales_dtype = dtypes.get("scales", mx.float32)
        codes = made_codes(self.random, b, (n, k))
        scales, size = made_scales(self.random, b_kind, n, k, self.scales_dtype, self.block)
        self.right = own_values(codes, b) * own_scales(scales, (n, k), size)
        self.codes = codes if nt else mx.contiguous(codes.T)
        self.b_scales = scales if nt or scales is None else mx.contiguous(scales.T)

    def left(self, m):
        """Return ``a``, its scales and its values."""
        shape = (m, self.k)
        if self.a is None:
            a = mx.array(self.random.standard_normal(shape).astype(np.float32)).astype(self.a_dtype)
        else:
            a = made_codes(self.random, self.a, shape)
        block = (1, self.block[1])
        scales, size = made_scales(self.random, self.a_kind, m, self.k, self.scales_dtype, block)
        return a, scales, own_values(a, self.a) * own_scales(scales, shape, size)

    def check(self, m, **options):
        a, scales, left = self.left(m)
        bias = options.get("bias")
        got = tg.fp8_scaled_matmul(
            a,
            self.codes,
            scales,
            self.b_scales,
            a_format=self.a,
            b_format=self.b,
            block=self.block,
            transpose_b=self.nt,
            **options,
        )
        close(got, left, self.right, options.get("out_dtype") or got.dtype, bias)


def close(got, left, right, out, bias=None):
    """Assert ``left @ right.T`` within what float32 sums and one rounding may be off."""
    value, size = left @ right.T, np.abs(left) @ np.abs(right.T)
    bound = (left.shape[-1] + 8) * 2.0**-24 * size + 2.0**-110
    if bias is not None:
        value, bound = value + as_floats(bias), bound + 2.0**-24 * np.abs(as_floats(bias))
    unit = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}[out]
    step = 2.0**-24 if out == mx.float16 else 2.0**-126
    assert got.dtype == out
    assert_close(got, value, bound + unit * (np.abs(value) + bound) + step)


FEW = [
    (None, "e4m3", "none", "block"),
    ("e5m2", "e4m3", "power", "power"),
    ("int8", "int8", "row", "row"),
]
MORE = [
    (None, "e5m2", "none", "row"),
    ("e4m3", "e4m3", "block", "block"),
    ("e4m3", "e5m2", "row", "tensor"),
    ("int8", "int8", "block", "block"),
    (None, "int8", "none", "row"),
]
PAIRS = [*FEW, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)]


@pytest.mark.parametrize("nt", [True, False], ids=["nt", "nn"])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda one: "-".join(map(str, one)))
class TestEveryPair:
    """Off every tile, in both layouts, by each kernel: few rows and many, and by MLX's ops."""

    def case(self, pair, nt):
        a, b, a_kind, b_kind = pair
        kinds = {"a_kind": a_kind, "b_kind": b_kind}
        return Case(1, 43, 150, a=a, b=b, nt=nt, block=(32, 64), scales=mx.bfloat16, **kinds)

    def test_few_rows(self, kernels, forced, pair, nt):
        case = self.case(pair, nt)
        # With scales that several columns share, more rows of broken runs would spill.
        rows = (3, 4) if nt or pair[3] == "row" else (1, 2)
        with forced("scaled_gemv"):
            for m in rows:
                case.check(m, out_dtype=mx.bfloat16)

    @pytest.mark.slow
    def test_many_rows(self, kernels, forced, pair, nt):
        case = self.case(pair, nt)
        with forced("scaled_gemm/16x32-1x4"):
            for m in (19, 33, 1):
                case.check(m, out_dtype=mx.float32)

    def test_by_mlx_s_ops(self, pair, nt):
        case = self.case(pair, nt)
        bias = mx.arange(43).astype(mx.float16)
        with tg.use_backend("mlx"):
            for m in (1, 5):
                case.check(m, out_dtype=mx.float16, bias=bias)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda one: "-".join(map(str, one)))
@pytest.mark.parametrize("k", [600, pytest.param(603, marks=pytest.mark.slow)])
def test_staged_rows(kernels, forced, pair, k):
    """Several steps, the last one short, and simdgroups whose columns are past the last one."""
    a, b, a_kind, b_kind = pair
    case = Case(3, 43, k, a=a, b=b, a_kind=a_kind, b_kind=b_kind, block=(32, 64))
    for rows, heights in ((8, (8, 5)), (2, (2,))):
        with forced(f"scaled_gemv/{rows}x4-8-staged"):
            for m in heights:
                case.check(m, out_dtype=mx.float32)


@pytest.mark.slow
@given(data=st.data())
def test_any_formats_scales_layout_and_sizes(data, kernels):
    draw = data.draw
    a, b = draw(st.sampled_from((None, *FORMATS))), draw(st.sampled_from(FORMATS))
    dtypes = [draw(st.sampled_from(FLOATS)) for _ in range(4)]
    sizes = st.sampled_from((1, 8, 9, 31, 33, 65, 130))
    n, k = draw(sizes), draw(sizes)
    case = Case(
        draw(st.integers(0, 99)),
        n,
        k,
        a=a,
        b=b,
        a_kind=draw(st.sampled_from(KINDS)),
        b_kind=draw(st.sampled_from(KINDS)),
        nt=draw(st.booleans()),
        block=draw(st.sampled_from(((128, 128), (1, 128), (32, 32), (5, 36)))),
        a_dtype=dtypes[0],
        scales=dtypes[1],
    )
    bias = mx.array(case.random.standard_normal(n).astype(np.float32)).astype(dtypes[2])
    options = {"bias": bias} if draw(st.booleans()) else {}
    for m in draw(st.lists(st.sampled_from((1, 2, 5, 8, 9, 17, 64, 67)), min_size=1, max_size=3)):
        case.check(m, out_dtype=dtypes[3], **options)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n", "k"), [(1, 576, 3884), (7, 576, 256), (83, 128, 3884)])
@pytest.mark.parametrize("a", [None, "e4m3"])
def test_blocks_of_128_with_ragged_last_ones(kernels, m, n, k, a):
    Case(2, n, k, a=a, b="e4m3", a_kind="block" if a else "none", b_kind="block").check(
        m, out_dtype=mx.bfloat16
    )


@pytest.fixture(params=["kernels", "mlx"])
def either(request):
    """Run the block's ops on this project's kernels, or on MLX's own ops."""
    if request.param == "kernels":
        # Its block ends after this one's, so that no other may be around it.
        request.getfixturevalue("kernels")
        yield
    else:
        with tg.use_backend("mlx"):
            yield


RANDOM = np.random.default_rng(7)
A = made_codes(RANDOM, "e4m3", (5, 96))
B = made_codes(RANDOM, "e4m3", (40, 96))
X = mx.array(RANDOM.standard_normal((5, 96)).astype(np.float32))
I = mx.array(RANDOM.integers(-128, 128, (5, 96)).astype(np.int8))  # noqa: E741


class TestValues:
    @pytest.mark.parametrize("form", ["e4m3", "e5m2"])
    @pytest.mark.parametrize("kernel", ["scaled_gemv", "scaled_gemm"])
    def test_every_code_of_both_operands(self, kernels, forced, form, kernel):
        codes = mx.arange(256).astype(mx.uint8).reshape(-1, 8)
        one = int(np.flatnonzero(TABLES[form] == 1)[0])
        units = np.zeros((8, 8), dtype=np.uint8)
        np.fill_diagonal(units, one)
        with forced(kernel):
            product = tg.fp8_scaled_matmul(
                mx.array(units), codes, a_format=form, b_format=form, transpose_b=True
            )
        got = np.array(product).T
        expected = TABLES[form].reshape(-1, 8)
        # A row of b with NaN or infinity makes NaN of every product with it, zero by it included.
        finite = np.isfinite(expected).all(axis=1)
        np.testing.assert_array_equal(got[finite], expected[finite])
        assert np.isnan(got[~finite]).any(axis=1).all()

    @pytest.mark.parametrize("form", ["e4m3", "e5m2"])
    def test_nan_stays_and_spoils_its_row_and_column_alone(self, either, form):
        a, b = np.array(A), np.array(B)
        a[a & 127 > 123], b[b & 127 > 123] = 0, 0
        a[2, 5], b[7, 90] = 0x7F, 0xFF
        got = tg.fp8_scaled_matmul(
            mx.array(a), mx.array(b), a_format=form, b_format=form, transpose_b=True
        )
        expected = np.zeros((5, 40), dtype=bool)
        expected[2], expected[:, 7] = True, True
        np.testing.assert_array_equal(np.isnan(np.array(got)), expected)

    def test_infinity_of_e5m2_stays(self, either):
        b = mx.zeros((40, 96), dtype=mx.uint8)
        b[3, 95], b[4, 0] = 0x7C, 0xFC
        got = tg.fp8_scaled_matmul(mx.ones((5, 96)), b, b_format="e5m2", transpose_b=True)
        assert got[0, 2:6].tolist() == [0, np.inf, -np.inf, 0]

    def test_every_power(self, either):
        scales = mx.arange(256).astype(mx.uint8)[:, None]
        codes = mx.full((256, 32), 0x38, dtype=mx.uint8)
        got = tg.fp8_scaled_matmul(
            mx.ones((2, 32)), codes, None, scales, transpose_b=True, out_dtype=mx.float32
        )
        with np.errstate(over="ignore"):
            expected = (TABLES["e8m0"] * 32).astype(np.float32)
        small = expected < 32 * 2.0**-126
        np.testing.assert_array_equal(np.array(got)[1][~small], expected[~small])
        assert np.array(got)[1][small].max() <= 32 * 2.0**-126

    @pytest.mark.parametrize("m", [4, 33])
    def test_sums_of_int8_are_exact(self, either, m):
        """Past 2^24, where float32 has no odd numbers, and to the last bit of int32."""
        a = mx.full((m, 3100), -128, dtype=mx.int8)
        b = mx.full((9, 3100), -128, dtype=mx.int8)
        b[:, 0] = mx.arange(9).astype(mx.int8)
        got = tg.fp8_scaled_matmul(a, b, b_format="int8", transpose_b=True, out_dtype=mx.int32)
        assert got.dtype == mx.int32
        assert got[m - 1].tolist() == [3099 * 2**14 - 128 * i for i in range(9)]

    def test_a_float_beyond_what_codes_alone_may_be_multiplied_by(self, either):
        """Scales bring back what would overflow before them."""
        a = mx.full((3, 96), 1e37)
        b = mx.full((40, 96), 0x7E, dtype=mx.uint8)
        got = tg.fp8_scaled_matmul(a, b, None, mx.full((40, 1), 1e-4), transpose_b=True)
        assert np.allclose(np.array(got), 1e37 * 96 * 448e-4, rtol=1e-5)

    def test_a_scale_of_zero_and_one_of_infinity(self, either):
        scales = mx.array([0.0, mx.inf] + [1.0] * 38)
        ones = mx.full((40, 90), 0x38, dtype=mx.uint8)
        got = tg.fp8_scaled_matmul(mx.ones((3, 90)), ones, None, scales, transpose_b=True)
        assert got[1, :3].tolist() == [0, np.inf, 90]

    @pytest.mark.parametrize(
        ("a_shape", "batch"),
        [
            ((96,), ()),
            ((3, 2, 96), ()),
            ((96,), (3,)),
            ((3, 2, 96), (3,)),
            ((2, 1, 2, 96), (3,)),
            ((3, 1, 2, 96), (1, 2)),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["block", "matrix", "tensor"])
    def test_batches_broadcast_as_those_of_matmul(self, either, a_shape, batch, kind):
        random = np.random.default_rng(3)
        a, b = made_codes(random, "e4m3", a_shape), made_codes(random, "e4m3", (*batch, 40, 96))
        shapes = {
            "block": ((*a_shape[:-1], 3), (*batch, 2, 3)),
            "matrix": ((*a_shape[:-2], *(1,) * len(a_shape[-2:])), (*batch, 1, 1)),
            "tensor": ((), (1,)),
        }[kind]
        a_scales, b_scales = (
            mx.array(random.uniform(0.5, 2, one).astype(np.float32)) for one in shapes
        )
        got = tg.fp8_scaled_matmul(
            a, b, a_scales, b_scales, a_format="e4m3", block=(32, 32), transpose_b=True
        )
        if kind == "block":
            left = own_values(a, "e4m3") * np.repeat(as_floats(a_scales), 32, axis=-1)
            grown = np.repeat(np.repeat(as_floats(b_scales), 32, axis=-2), 32, axis=-1)[..., :40, :]
        else:
            left = own_values(a, "e4m3") * as_floats(a_scales)
            grown = as_floats(b_scales)
        right = np.swapaxes(own_values(b, "e4m3") * grown, -1, -2)
        expected = np.matmul(left, right)
        assert got.shape == expected.shape
        np.testing.assert_allclose(
            np.array(got), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max()
        )

    def test_views_are_read_where_they_begin(self, kernels):
        """At any byte: codes of one more, and of every second row and column."""
        shifted = mx.concatenate([mx.zeros((1,), mx.uint8), B.reshape(-1)])[1:].reshape(B.shape)
        spread = mx.repeat(mx.repeat(B, 2, 0), 2, 1)[::2, ::2]
        whole = tg.fp8_scaled_matmul(X, B, transpose_b=True)
        for view in (shifted, spread):
            assert mx.array_equal(tg.fp8_scaled_matmul(X, view, transpose_b=True), whole)
        assert mx.array_equal(tg.fp8_scaled_matmul(X, B.T), tg.fp8_scaled_matmul(X, mx.array(B.T)))

    def test_a_row_is_the_same_however_many_there_are(self, kernels):
        a = made_codes(np.random.default_rng(5), "e5m2", (70, 96))
        rows = mx.array(np.random.default_rng(6).uniform(1, 2, (70, 1)).astype(np.float32))
        options = {"a_format": "e5m2", "transpose_b": True, "batch_invariant": True}
        whole = tg.fp8_scaled_matmul(a, B, rows, **options)
        for count in (1, 2, 9, 33):
            part = tg.fp8_scaled_matmul(a[:count], B, rows[:count], **options)
            assert mx.array_equal(part, whole[:count])

    def test_a_batch_of_nothing(self, either):
        b = mx.zeros((0, 40, 96), dtype=mx.uint8)
        got = tg.fp8_scaled_matmul(X, b, None, mx.ones((0, 40, 1)), transpose_b=True)
        assert (got.shape, got.dtype) == ((0, 5, 40), mx.float32)

    def test_tiny_operands_are_mlx_s(self, kernels):
        explained = tg.explain("fp8_scaled_matmul", X[:, :3], B[:1, :3], transpose_b=True)
        assert explained.plan is None
        assert "constant address space" in str(explained)
        Case(4, 1, 3, a=None, b="e4m3", b_kind="row").check(3)

    def test_few_scales_are_bound_as_constants(self, kernels, forced):
        """A text is made once for numbers of rows on both sides of what MLX binds as constants."""
        case = Case(5, 130, 96, a="e4m3", b="e4m3", a_kind="row", b_kind="block")
        with forced("scaled_gemm/8x32-1x4"):
            for m in (3, 30):
                case.check(m)


class TestDtypes:
    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_a_float_decides(self, either, dtype):
        assert tg.fp8_scaled_matmul(X.astype(dtype), B, transpose_b=True).dtype == dtype

    def test_codes_make_float32(self, either):
        assert tg.fp8_scaled_matmul(A, B, a_format="e4m3", transpose_b=True).dtype == mx.float32
        assert tg.fp8_scaled_matmul(I, I, b_format="int8", transpose_b=True).dtype == mx.float32


def f(*args, **options):
    return tg.fp8_scaled_matmul(*args, **{"transpose_b": True, **options})


REFUSED = [
    ("codes without a format", lambda: f(A, B), "Expected a_format to name the format"),
    ("an unknown format", lambda: f(A, B, a_format="e3m4"), "one of e4m3, e5m2, int8, got 'e3m4'"),
    ("a format of 4 bits", lambda: f(X, B, b_format="e2m1"), "one of e4m3, e5m2, int8"),
    ("no format of b", lambda: f(X, B, b_format=None), "Expected b_format to name"),
    ("a format of a float", lambda: f(X, B, a_format="e4m3"), "Expected no a_format for a of flo"),
    ("a format that is none", lambda: f(A, B, a_format=4), "Expected a_format to be a string"),
    ("int8 as a float", lambda: f(X, I), "Expected b of uint8 for b_format 'e4m3', got int8"),
    ("floats as int8", lambda: f(X, B, b_format="int8"), "Expected b of int8 for b_format 'int8'"),
    ("a float b", lambda: f(X, X), "Expected b to be codes of uint8 or int8, got float32"),
    ("a of uint32", lambda: f(mx.ones((5, 96), mx.uint32), B), "Expected a to be a float, or"),
    ("a of float64", lambda: f(mx.ones((5, 96), mx.float64), B), "got float64"),
    ("a scalar", lambda: f(mx.ones(()), B), "Expected a of at least 1 dimensions"),
    ("a vector b", lambda: f(X, B[0]), "Expected b of at least 2 dimensions"),
    ("another k", lambda: f(X[:, :64], B), "with shape (5,64) must match last dimension of second"),
    ("another k, nn", lambda: f(X, B, transpose_b=False), "second to last dimension of second"),
    (
        "batches",
        lambda: f(mx.ones((2, 5, 96)), mx.stack([B] * 3)),
        "Expected batch axes that broadcast, got (2,5,96) and (3,40,96)",
    ),
    (
        "scales of other rows",
        lambda: f(X, B, None, mx.ones((39, 1))),
        "to be one scale or (1,1) or (40,1) or (40); blocks are named, as by block=(128, 128), got "
        "(39,1)",
    ),
    ("blocks without a name", lambda: f(X, B, None, mx.ones((2, 3))), "blocks are named"),
    ("other blocks", lambda: f(X, B, None, mx.ones((2, 3)), block=(128, 128)), "got (2,3)"),
    ("blocks of the other layout", lambda: f(X, B, None, mx.ones((3, 2)), block=(32, 32)), "(3,2)"),
    ("blocks of a", lambda: f(A, B, mx.ones((5, 2)), a_format="e4m3", block=(32, 32)), "(5,2)"),
    ("powers of 16", lambda: f(X, B, None, mx.ones((40, 6), mx.uint8)), "or (40,3) or (40), got"),
    ("int scales", lambda: f(X, B, None, mx.ones((40,), mx.int32)), "or e8m0 codes of uint8, got"),
    ("a batch of scales", lambda: f(X, B, None, mx.ones((2, 40, 1))), "got (2,40,1)"),
    ("a block of one size", lambda: f(X, B, block=(128,)), "block of two sizes of at least 1"),
    ("a block of nothing", lambda: f(X, B, block=(0, 128)), "block of two sizes of at least 1"),
    ("a number for a block", lambda: f(X, B, block=128), "block to be None or two sizes, got int"),
    ("a bias of rows", lambda: f(X, B, bias=mx.ones((5,))), "result's columns, (40), got (5)"),
    ("an int bias", lambda: f(X, B, bias=mx.ones((40,), mx.int32)), "Expected bias of float32"),
    ("an int result", lambda: f(X, B, out_dtype=mx.int32), "or int32 of int8 by int8, got int32"),
    (
        "an int result of scales",
        lambda: f(I, I, mx.ones((5,)), b_format="int8", out_dtype=mx.int32),
        "Expected a floating point out_dtype where scales",
    ),
    ("no rows", lambda: f(X[:0], B), "with rows, columns and terms, got m 0, n 40, k 96"),
    ("no columns", lambda: f(X, B[:0], None, mx.ones((0,))), "got m 5, n 0, k 96"),
    ("no terms", lambda: f(X[:, :0], B[:, :0]), "got m 5, n 40, k 0"),
    ("a list", lambda: f([1.0], B), "Expected a to be an mlx.core.array"),
    ("a flag of a string", lambda: f(X, B, transpose_b="no"), "transpose_b to be a bool"),
]


@pytest.mark.parametrize(("name", "call", "text"), REFUSED, ids=[one[0] for one in REFUSED])
def test_refusals(name, call, text):
    with pytest.raises(tg.errors.TileGemmError, match=re.escape(text)) as raised:
        call()
    assert str(raised.value).startswith("[fp8_scaled_matmul] ")


def spec(*shape, dtype=mx.bfloat16):
    return tg.ArraySpec(shape=shape, dtype=dtype)


class TestChoice:
    def explained(self, m, chip, **options):
        return tg.explain(
            tg.fp8_scaled_matmul,
            spec(m, 7168),
            spec(4096, 7168, dtype=mx.uint8),
            b_scales=spec(32, 56, dtype=mx.float32),
            block=(128, 128),
            transpose_b=True,
            chip=chip,
            **options,
        )

    @pytest.mark.parametrize("chip", ["m1", "m4-max", "m5-max"])
    @pytest.mark.parametrize(
        ("m", "kernel"), [(1, "scaled_gemv"), (8, "scaled_gemv"), (64, "scaled_gemm")]
    )
    def test_rows_decide(self, m, kernel, chip):
        found = self.explained(m, chip)
        assert found.plan.kernel == kernel
        legal = [one.seconds for one in found.candidates if one.seconds]
        # MLX writes and reads four bytes for every code.
        assert found.mlx.seconds > 3 * min(legal) or m > 8

    @pytest.mark.parametrize("chip", ["m1-max", "m4-max", "m5-pro"])
    def test_rows_are_staged_from_two_on(self, chip):
        """Else each simdgroup would ask for all of them: more bytes than the weight has."""
        chosen = {m: str(self.explained(m, chip).plan.config) for m in (1, 2, 4, 8)}
        staged = {m: f"{m}x4-8-staged" for m in (2, 4, 8)}
        assert chosen == {1: "1x4-4"} | staged

    def test_copies_are_priced(self):
        found = self.explained(1, "m4-max")
        assert re.search(r"\b\d{9} bytes of copies", str(found))

    def test_notes(self):
        assert "b has 8.002 bits an element" in str(self.explained(4, "m4-max"))
        with tg.use_backend("mlx"):
            assert "decoded into 117440512 bytes" in str(self.explained(4, "m4-max"))

    def test_the_command_line_spells_problems(self):
        for text, parts in {
            "8x4096x512:bf16,f32:e4m3-128x128": ("e4m3", (32, 4), "nt"),
            "8x4000x500:bf16,f32:e5m2*e4m3-128x128-nn": ("e4m3", (4, 32), "nn"),
            "8x4096x512:f16:e5m2-row": ("e5m2", (4096, 1), "nt"),
            "8x4096x512:f16:e4m3-32": ("e4m3", (4096, 16), "nt"),
            "8x4096x512:f16:int8*int8": ("int8", None, "nt"),
            "8x4096x512": ("e4m3", (32, 4), "nt"),
        }.items():
            problem = parse(text)
            shapes = {one.name: one.shape for one in problem.operands}
            assert (problem.b.short.replace("i8", "int8"), shapes.get("b_scales")) == parts[:2]
            assert problem.layout == parts[2]
            assert from_plain(to_plain(problem, problem_types()), problem_types()) == problem
        for wrong in ("8x4096", "8x64x64:f16:e3m4", "8x64x64:f16:e4m3-0x4", "8x64x64:f16:f16*e4m3"):
            with pytest.raises(tg.errors.ProblemError):
                parse(wrong)


def test_every_small_problem_of_a_plan_has_its_text():
    scaling = {"b_scales": block_scaling(FLOAT32, 128, 128)}
    problem = variant(700, 4096, 4096, a_batch=(4, 2), b_batch=(2,), **scaling)
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
@pytest.mark.parametrize("nt", [True, False])
def test_the_family_s_reference_is_that_of_these_tests(exact, nt):
    text = f"5x40x192:f32:e5m2*e4m3-32x64{'' if nt else '-nn'}"
    problem = parse(text)
    operands = cases.operands(problem, cases.Data(seed=3, exact=exact))
    given = dict(zip(problem.operand_names, operands, strict=True))
    b, b_scales = given["b"], given["b_scales"]
    b, b_scales = (b, b_scales) if nt else (b.T, b_scales.T)
    left = own_values(given["a"], "e5m2") * own_scales(given["a_scales"], (5, 192), (1, 64))
    right = own_values(b, "e4m3") * own_scales(b_scales, (40, 192), (32, 64))
    (expected,) = cases.expected(problem, operands)
    np.testing.assert_allclose(expected.value, left @ right.T, rtol=1e-11, atol=1e-9)
    numbers = ~np.isnan(expected.value)
    assert numbers.mean() > 0.9
    assert (expected.bound[numbers] < 1e-2 * np.nanmax(np.abs(expected.value))).all()


def test_part_of_a_call_is_held_like_the_whole():
    problem = variant(60, 40, 64, a=FLOAT8_E4M3, a_scales=ROWS(dtype=FLOAT32))
    operands = cases.operands(problem, cases.Data(seed=1))
    kernel = kernel_named("scaled_gemm")
    config = next(iter(kernel.candidates(problem, M4)))
    outputs = kernel_run(problem, kernel.plan(problem, config), backend_named("emulator"))(
        operands, (), None
    )
    part = family_of(problem).part(problem, operands, outputs, 7)
    assert part.problem.m == 7
    assert hold(part.problem, part.outputs, cases.expected(part.problem, part.operands))[1] == []
    wrong = replace(part, outputs=[part.outputs[0] + 1])
    assert hold(part.problem, wrong.outputs, cases.expected(part.problem, part.operands))[1]


def test_the_command_line_takes_blocks(capsys):
    call = "explain fp8_scaled_matmul 1x7168 4096x7168 --dtypes bf16,u8 --b-scales 32x56:f32"
    assert main([*call.split(), "--block", "128x128", "--transpose-b", "--chip", "m4-max"]) == 0
    assert "scaled_gemv" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*call.split(), "--block", "128x", "--transpose-b"])
    assert "argument --block" in capsys.readouterr().err


class TestPackedCodes:
    """Codes of e4m3 with an e8m0 scale for 32 elements: MLX's own op of mxfp8 computes the same."""

    @pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
    @pytest.mark.parametrize("rows", [1, 40])
    def test_by_mlx_s_own_op(self, monkeypatch, dtype, rows):
        random = np.random.default_rng(rows)
        codes = mx.array(random.integers(0, 256, (24, 64)).astype(np.uint8))
        powers = random.integers(100, 150, (24, 2)).astype(np.uint8)
        powers[3, 1] = 255
        scales, bias = mx.array(powers), mx.ones((24,))
        x = mx.array(random.standard_normal((2, rows, 64)).astype(np.float32)).astype(dtype)
        called = []
        own = mx.quantized_matmul

        def counting(*args, **options):
            called.append(args)
            return own(*args, **options)

        monkeypatch.setattr(mlx_ops, "quantized_matmul", counting)
        with tg.use_backend("mlx"):
            got = tg.fp8_scaled_matmul(
                x, codes, None, scales, bias=bias, transpose_b=True, out_dtype=mx.float32
            )
            mx.eval(got)
        assert called
        values = np.array(formats.decode(codes, "e4m3")).astype(np.float64)
        values *= np.repeat(np.array(formats.decode(scales, "e8m0")).astype(np.float64), 32, axis=1)
        wide = np.array(x.astype(mx.float32)).astype(np.float64)
        wanted, size = wide @ values.T + 1, np.abs(wide) @ np.abs(values).T + 1
        assert got.dtype == mx.float32
        assert np.isnan(wanted[..., 3]).all()
        np.testing.assert_array_equal(np.isnan(np.array(got)), np.isnan(wanted))
        known = ~np.isnan(wanted)
        error = np.abs(np.array(got) - wanted)
        assert (error[known] <= (64 + 8) * 2.0**-23 * size[known]).all()

    def test_transforms(self):
        codes = formats.encode(mx.random.normal((24, 64), key=mx.random.key(1)), "e4m3")
        scales = mx.full((24, 2), 126, dtype=mx.uint8)
        x = mx.random.normal((3, 5, 64), key=mx.random.key(2))
        values = formats.decode(codes, "e4m3") * 0.5

        def ours(x):
            return tg.fp8_scaled_matmul(x, codes, None, scales, transpose_b=True)

        with tg.use_backend("mlx"):
            got = mx.grad(lambda x: (ours(x) ** 2).sum())(x)
            tangent = mx.jvp(ours, [x], [x[::-1]])[1][0]
            mapped = mx.vmap(ours)(x)
        wanted = mx.grad(lambda x: ((x @ values.T) ** 2).sum())(x)
        for one, other in ((got, wanted), (tangent, x[::-1] @ values.T), (mapped, x @ values.T)):
            assert mx.allclose(one, other, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize(("rows", "path"), [(1, "qmv"), (512, "qmm-32x32x32-2x2")])
    def test_the_price_is_of_that_op(self, rows, path):
        packed = cases.price_of(parse(f"{rows}x4096x4096:bf16:e4m3-32"), chips.get("m1-max"))
        assert (packed.path, packed.copied_bytes) == (path, 0)
        decoded = cases.price_of(parse(f"{rows}x4096x4096:bf16:e5m2-32"), chips.get("m1-max"))
        assert decoded.copied_bytes > 9 * 4096 * 4096
