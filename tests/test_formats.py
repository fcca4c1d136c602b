"""Low-bit formats: every code, every 16-bit float, and MLX's quantized weights."""

from __future__ import annotations

import re

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm import formats

NAN, INF = float("nan"), float("inf")
CODES = np.arange(256, dtype=np.uint8)

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def own_value(code: int, exponent_bits: int, mantissa_bits: int) -> float:
    """Return a small float by its definition: sign, biased exponent, mantissa; no specials."""
    bias = 2 ** (exponent_bits - 1) - 1
    sign = -1 if code >> (exponent_bits + mantissa_bits) else 1
    exponent = code >> mantissa_bits & (2**exponent_bits - 1)
    fraction = (code & (2**mantissa_bits - 1)) / 2**mantissa_bits
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias)
    return sign * (1 + fraction) * 2.0 ** (exponent - bias)


def own_table(name: str) -> list[float]:
    """Return the values of a format's codes, by the OCP's tables."""
    if name == "e8m0":
        return [2.0 ** (code - 127) for code in range(255)] + [NAN]
    if name == "e2m1":
        return [*E2M1, *(-x for x in E2M1)]
    if name == "e4m3":
        return [NAN if code & 127 == 127 else own_value(code, 4, 3) for code in range(256)]
    table = [own_value(code, 5, 2) for code in range(256)]
    for sign in (0, 128):
        table[sign + 0x7C : sign + 0x80] = [-INF if sign else INF, NAN, NAN, NAN]
    return table


def as_floats(array: mx.array) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.array(array.astype(mx.float32)).astype(np.float64)


SIXTEEN_BITS = {
    name: mx.arange(1 << 16).astype(mx.uint16).view(dtype)
    for name, dtype in (("float16", mx.float16), ("bfloat16", mx.bfloat16))
}


def nearest(values: np.ndarray, name: str) -> np.ndarray:
    """Return the nearest finite numbers of a signed format, ties to the even code, by search."""
    magnitudes = np.array(own_table(name)[: 1 << (7 if name != "e2m1" else 3)])
    finite = magnitudes[np.isfinite(magnitudes)]
    middles = (finite[1:] + finite[:-1]) / 2
    size = np.abs(values)
    at = np.searchsorted(middles, size, side="left")
    at += (at < len(middles)) & (size == middles[np.minimum(at, len(middles) - 1)]) & (at % 2 == 1)
    return np.copysign(finite[at], values)


class TestDecode:
    @pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "e8m0"])
    @pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
    def test_every_code(self, name, dtype):
        table = own_table(name)
        codes = CODES[: len(table)]
        got = formats.decode(mx.array(codes), name, dtype=dtype)
        assert got.dtype == dtype
        expected = mx.array(np.array(table, dtype=np.float32)).astype(dtype)
        np.testing.assert_array_equal(
            np.array(got.view(mx.uint8))[~np.isnan(np.array(table)).repeat(got.itemsize)],
            np.array(expected.view(mx.uint8))[~np.isnan(np.array(table)).repeat(got.itemsize)],
        )
        np.testing.assert_array_equal(np.isnan(as_floats(got)), np.isnan(table))

    def test_e4m3_is_mlx_s(self):
        got = formats.decode(mx.array(CODES), "e4m3")
        np.testing.assert_array_equal(
            np.array(got), np.array(mx.from_fp8(mx.array(CODES), mx.float32))
        )

    def test_high_bits_of_e2m1_do_not_count(self):
        got = formats.decode(mx.array(CODES), "e2m1")
        np.testing.assert_array_equal(np.array(got), np.tile(own_table("e2m1"), 16))

    def test_shapes_stay(self):
        assert formats.decode(mx.zeros((2, 0, 3), mx.uint8), "e5m2").shape == (2, 0, 3)


class TestEncode:
    @pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1"])
    @pytest.mark.parametrize("kind", ["float16", "bfloat16"])
    def test_every_sixteen_bit_float_becomes_the_nearest(self, name, kind):
        x = SIXTEEN_BITS[kind]
        values = as_floats(x)
        got = formats.encode(x, name)
        decoded = as_floats(formats.decode(got, name))
        numbers = ~np.isnan(values)
        expected = nearest(values[numbers], name)
        np.testing.assert_array_equal(decoded[numbers], expected)
        np.testing.assert_array_equal(np.signbit(decoded[numbers]), np.signbit(expected))
        if name != "e2m1":
            assert np.isnan(decoded[~numbers]).all()
        else:
            assert (np.abs(decoded[~numbers]) == 6).all()

    @pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1"])
    def test_float32_around_every_middle(self, name):
        table = np.array(own_table(name))
        finite = np.unique(table[np.isfinite(table)])
        middles = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
        around = [np.nextafter(middles, np.float32(side)) for side in (-INF, INF)]
        values = np.concatenate([middles, *around, finite.astype(np.float32)])
        got = as_floats(formats.decode(formats.encode(mx.array(values), name), name))
        np.testing.assert_array_equal(got, nearest(values.astype(np.float64), name))

    @pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "e8m0"])
    def test_every_code_comes_back(self, name):
        codes = mx.array(CODES[: len(own_table(name))])
        values = formats.decode(codes, name)
        again = np.array(formats.encode(values, name, saturate=False))
        numbers = ~np.isnan(np.array(values))
        np.testing.assert_array_equal(again[numbers], np.array(codes)[numbers])
        assert np.isnan(np.array(formats.decode(mx.array(again), name))[~numbers]).all()

    def test_it_is_mlx_s_where_mlx_has_one(self):
        x = SIXTEEN_BITS["bfloat16"]
        numbers = np.isfinite(as_floats(x))
        got, mlx = (np.array(one) for one in (formats.encode(x, "e4m3"), mx.to_fp8(x)))
        np.testing.assert_array_equal(got[numbers], mlx[numbers])

    @pytest.mark.parametrize(
        ("name", "saturated", "not_saturated"),
        [
            ("e4m3", [448, 448, 448, -448], [NAN, 448, NAN, NAN]),
            ("e5m2", [57344, 448, 57344, -57344], [INF, 448, INF, -INF]),
            ("e2m1", [6, 6, 6, -6], [6, 6, 6, -6]),
        ],
    )
    def test_what_is_too_large(self, name, saturated, not_saturated):
        x = mx.array([61441.0, 463.9, INF, -INF])
        for saturate, expected in ((True, saturated), (False, not_saturated)):
            got = formats.decode(formats.encode(x, name, saturate=saturate), name)
            np.testing.assert_array_equal(np.array(got), expected)

    def test_powers_of_two_are_rounded_up(self):
        powers = 2.0 ** np.arange(-127, 128).astype(np.float64)
        exact = formats.encode(mx.array(powers.astype(np.float32)), "e8m0")
        np.testing.assert_array_equal(np.array(exact), np.arange(255))
        above = np.nextafter(powers[:-1].astype(np.float32), np.float32(INF))
        np.testing.assert_array_equal(
            np.array(formats.encode(mx.array(above), "e8m0")), np.arange(1, 255)
        )
        below = np.nextafter(powers.astype(np.float32), np.float32(0))
        np.testing.assert_array_equal(
            np.array(formats.encode(mx.array(below), "e8m0")), np.arange(255)
        )
        special = mx.array([0.0, -0.0, 3.4e38, INF, -1.0, NAN, -INF])
        got = formats.encode(special, "e8m0").tolist()
        assert got == [0, 0, 254, 254, 255, 255, 255]
        assert formats.encode(special, "e8m0", saturate=False).tolist()[2:4] == [255, 255]


def own_codes(words: np.ndarray, bits: int) -> np.ndarray:
    """Return the codes of rows of words as Python integers of any size hold them."""
    mask = (1 << bits) - 1
    rows = []
    for row in words.reshape(-1, words.shape[-1]):
        stream = int.from_bytes(row.astype("<u4").tobytes(), "little")
        rows.append([stream >> (bits * i) & mask for i in range(row.size * 32 // bits)])
    return np.array(rows).reshape(*words.shape[:-1], -1)


BITS = [1, 2, 3, 4, 5, 6, 8]


class TestWords:
    @pytest.mark.parametrize("bits", BITS)
    def test_codes_of_words_and_words_of_codes(self, bits):
        words = np.random.default_rng(bits).integers(0, 1 << 32, (3, 4 * bits), dtype=np.uint32)
        codes = formats.unpack(mx.array(words), bits)
        np.testing.assert_array_equal(np.array(codes), own_codes(words, bits))
        np.testing.assert_array_equal(np.array(formats.pack(codes, bits)), words)
        high = codes | mx.array(256 - (1 << bits), mx.uint8)
        np.testing.assert_array_equal(np.array(formats.pack(high, bits)), words)


class TestGroups:
    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("group", [32, 64, 128])
    def test_affine_is_mlx_s(self, bits, group):
        w = mx.random.normal((7, 256), key=mx.random.key(bits * group))
        mlx = mx.quantize(w, group, bits)
        for got, expected in zip(formats.quantize(w, group, bits), mlx, strict=True):
            assert mx.array_equal(got, expected)
        q, scales, biases = mlx
        got = formats.dequantize(q, scales, biases, group, bits)
        codes = own_codes(np.array(q), bits).reshape(7, -1, group)
        exact = codes * as_floats(scales)[..., None] + as_floats(biases)[..., None]
        np.testing.assert_allclose(np.array(got), exact.reshape(7, -1), rtol=0, atol=2e-6)
        assert mx.array_equal(got, mx.dequantize(q, scales, biases, group, bits))

    @pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
    def test_small_floats_are_mlx_s(self, mode):
        w = 3 * mx.random.normal((64, 256), key=mx.random.key(5))
        mlx = mx.quantize(w, mode=mode)
        got = formats.quantize(w, mode=mode)
        assert mx.array_equal(got[1], mlx[1])
        for one in (mlx, got):
            mine = formats.dequantize(*one, mode=mode, dtype=mx.float32)
            # The sign of zero, which MLX drops, makes no difference here.
            assert mx.array_equal(mine, mx.dequantize(*mlx, mode=mode, dtype=mx.float32))
        assert formats.dequantize(*got, mode=mode).dtype == mx.bfloat16

    @pytest.mark.parametrize(
        ("mode", "codes", "scales", "group"),
        [
            ("mxfp4", "e2m1", "e8m0", 32),
            ("mxfp8", "e4m3", "e8m0", 32),
            ("nvfp4", "e2m1", "e4m3", 16),
        ],
    )
    def test_every_code_with_every_scale(self, mode, codes, scales, group):
        count = len(own_table(codes))
        row = np.resize(np.arange(count), -(-count // group) * group)
        words = formats.pack(
            mx.array(np.tile(row, (256, 1)).astype(np.uint8)), 8 if count > 16 else 4
        )
        scale = mx.array(np.repeat(CODES[:, None], row.size // group, axis=1))
        got = formats.dequantize(words, scale, mode=mode, dtype=mx.float32)
        table = np.array(own_table(scales))
        if scales == "e8m0":
            table[255] = INF  # as MLX reads it
        with np.errstate(invalid="ignore", over="ignore"):
            expected = np.array(own_table(codes))[row][None] * table[:, None]
            expected = expected.astype(np.float32)
        small = np.abs(expected) < 2.0**-126  # MLX may flush what is smaller
        np.testing.assert_array_equal(np.array(got)[~small], expected[~small])
        np.testing.assert_array_equal(
            np.array(mx.dequantize(words, scale, mode=mode, dtype=mx.float32))[~small],
            expected[~small],
        )

    def test_the_scale_of_a_tensor_is_a_share_of_2688(self):
        w = mx.random.normal((4, 64), key=mx.random.key(1))
        scale = mx.array(float(mx.abs(w).max()))
        q, scales = formats.quantize(w, mode="nvfp4", global_scale=scale)
        unscaled = formats.dequantize(q, scales, mode="nvfp4", dtype=mx.float32)
        got = formats.dequantize(q, scales, mode="nvfp4", global_scale=scale, dtype=mx.float32)
        np.testing.assert_allclose(
            np.array(got), np.array(unscaled).astype(np.float64) * scale.item() / 2688, rtol=3e-7
        )
        assert as_floats(formats.decode(scales, "e4m3")).max() == 448
        assert np.abs(as_floats(got - w)).max() < 0.17 * scale.item()

    def test_a_group_of_zeros_and_one_of_tiny_numbers(self):
        w = mx.concatenate([mx.zeros((2, 32)), mx.full((2, 32), 1e-38)], axis=1)
        for mode in ("mxfp4", "mxfp8", "nvfp4"):
            values = formats.dequantize(*formats.quantize(w, mode=mode), mode=mode)
            assert not mx.isnan(values).any()
            assert mx.abs(values).max().item() < 1e-37


def test_packed_words_of_a_view_and_of_no_rows():
    words = mx.arange(48, dtype=mx.uint32).reshape(4, 12)[1::2, ::3]
    np.testing.assert_array_equal(np.array(formats.unpack(words, 4)), own_codes(np.array(words), 4))
    assert formats.unpack(mx.zeros((0, 3), mx.uint32), 3).shape == (0, 32)


ONES = mx.ones((2, 2))
WORDS = mx.zeros((2, 8), mx.uint32)
U8 = mx.zeros((2, 2), mx.uint8)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: formats.decode(U8, "fp8"), "problem", "[decode] Expected a format of e4m3, e5m2"),
        (lambda: formats.decode(U8, mx.float16), "problem", "[decode] Expected a format of e4m3"),
        (lambda: formats.decode(ONES, "e4m3"), "dtype", "[decode] Expected codes of uint8, got f"),
        (lambda: formats.decode([1], "e4m3"), "dtype", "[decode] Expected codes to be an mlx"),
        (lambda: formats.decode(U8, "e4m3", dtype=mx.int8), "dtype", "[decode] Expected dtype of"),
        (lambda: formats.encode(U8, "e4m3"), "dtype", "[encode] Expected x of float32, float16 o"),
        (lambda: formats.encode(ONES, ""), "problem", "[encode] Expected a format of"),
        (lambda: formats.encode(ONES, "e4m3", saturate=2), "dtype", "[encode] Expected saturate"),
        (lambda: formats.unpack(WORDS, 7), "problem", "[unpack] Expected 1, 2, 3, 4, 5, 6 or 8 b"),
        (lambda: formats.unpack(U8, 4), "dtype", "[unpack] The weight matrix should be uint32"),
        (lambda: formats.unpack(WORDS, 3), "problem", "[unpack] Expected rows of whole 3-bit cod"),
        (lambda: formats.pack(U8, 4), "problem", "[pack] Expected rows of 4-bit codes that fill w"),
        (lambda: formats.pack(WORDS, 4), "dtype", "[pack] Expected codes of uint8, got uint32."),
        (lambda: formats.dequantize(WORDS, ONES), "problem", "[dequantize] Biases must be provi"),
        (
            lambda: formats.dequantize(WORDS, ONES, ONES, 64),
            "problem",
            "[dequantize] The shapes of",
        ),
        (
            lambda: formats.dequantize(WORDS, ONES, ONES, 48),
            "problem",
            "[dequantize] The requested",
        ),
        (lambda: formats.quantize(ONES), "problem", "[quantize] Expected a matrix whose last axis"),
        (
            lambda: formats.quantize(ONES, mode="x"),
            "problem",
            "[quantize] Invalid quantization mode",
        ),
        (
            lambda: formats.quantize(mx.ones((2, 32)), 64, mode="mxfp4"),
            "problem",
            "[quantize] mxfp4 quantization requires group size 32 but got 64.",
        ),
        (
            lambda: formats.quantize(mx.ones((2, 32)), bits=6, mode="mxfp4"),
            "problem",
            "[quantize] mxfp4 quantization requires bits to be 4 but got 6.",
        ),
        (
            lambda: formats.quantize(mx.ones((2, 64)), bits=7),
            "problem",
            "[quantize] The requested number of bits 7 is not supported. The supported bits are",
        ),
        (
            lambda: formats.quantize(mx.ones((2, 32)), mode="mxfp4", global_scale=mx.array(1.0)),
            "problem",
            "[quantize] Global scale is only supported for 'nvfp4' quantization mode.",
        ),
        (
            lambda: formats.quantize(mx.ones((2, 32)), mode="nvfp4", global_scale=mx.ones((2,))),
            "problem",
            "[quantize] Global scale must be a scalar but got shape (2).",
        ),
    ],
)
def test_what_is_refused(call, error, text):
    kinds = {"problem": tg.errors.ProblemError, "dtype": tg.errors.DTypeError}
    with pytest.raises(kinds[error], match=re.escape(text)):
        call()
