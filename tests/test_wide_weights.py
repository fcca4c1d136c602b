"""Weights whose elements 32 bits do not number: their texts count in 64, with the same values."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm import ArraySpec, formats
from mlx_tilegemm.core import caches, render
from mlx_tilegemm.families.experts.spec import ExpertText
from mlx_tilegemm.families.quantized.spec import QuantizedText
from mlx_tilegemm.families.scaled.spec import ScaledText

SIDE = 1 << 16


def quantized(n, k):
    weight = ArraySpec(shape=(n, k // 8), dtype=mx.uint32)
    scales = ArraySpec(shape=(n, k // 64), dtype=mx.float16)
    x = ArraySpec(shape=(64, k), dtype=mx.float16)
    return tg.explain("quantized_matmul", x, weight, scales, scales).text


def scaled(n, k):
    codes = ArraySpec(shape=(n, k), dtype=mx.uint8)
    scales = ArraySpec(shape=(-(-n // 128), -(-k // 128)), dtype=mx.float32)
    x = ArraySpec(shape=(64, k), dtype=mx.float16)
    return tg.explain(
        "fp8_scaled_matmul",
        x,
        codes,
        None,
        scales,
        b_format="e4m3",
        block=(128, 128),
        transpose_b=True,
    ).text


def experts(n, k):
    codes = ArraySpec(shape=(4, n, k), dtype=mx.uint8)
    scales = ArraySpec(shape=(4, -(-n // 128), -(-k // 128)), dtype=mx.float32)
    x = ArraySpec(shape=(64, 1, k), dtype=mx.float16)
    chosen = ArraySpec(shape=(64,), dtype=mx.uint32)
    return tg.explain(
        "gather_fp8_mm", x, codes, scales, rhs_indices=chosen, format="e4m3", block=(128, 128)
    ).text


def index(text):
    (line,) = {one for one in text.splitlines() if one.startswith("typedef") and "_index;" in one}
    return line.split()[1]


@pytest.mark.parametrize("text", [quantized, scaled, experts])
def test_as_few_bits_as_number_all_elements(text):
    assert index(text(SIDE, SIDE)) == "uint"
    assert index(text(SIDE, SIDE + 64)) == "size_t"


@pytest.mark.parametrize("text", [scaled, experts])
def test_elements_that_fill_up_the_last_block_of_scales_count(text):
    assert index(text(SIDE, SIDE - 64)) == "uint"
    assert (SIDE + 1) * (SIDE - 64) < 1 << 32
    assert index(text(SIDE + 1, SIDE - 64)) == "size_t"


def products(rows):
    """Return what each kernel makes of a few rows, or many, with quantized weights and codes."""
    x = mx.random.normal((rows, 1, 192), key=mx.random.key(rows))
    plain = mx.random.normal((3, 38, 192), key=mx.random.key(1))
    codes, scales, biases = mx.quantize(plain, 64, 5)
    small = formats.encode(plain, "e4m3")
    factors = mx.random.uniform(1, 2, (3, 1, 2), key=mx.random.key(2))
    chosen = mx.arange(rows) % 3
    return [
        tg.quantized_matmul(x[:, 0], codes[0], scales[0], biases[0], True, 64, 5),
        tg.fp8_scaled_matmul(
            x[:, 0], small[0], None, factors[0], b_format="e4m3", block=(128, 128), transpose_b=True
        ),
        tg.gather_qmm(x, codes, scales, biases, rhs_indices=chosen, group_size=64, bits=5),
        tg.gather_fp8_mm(x, small, factors, rhs_indices=chosen, format="e4m3", block=(128, 128)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 70])
def test_values_are_the_same(kernels, monkeypatch, rows):
    narrow = products(rows)
    mx.eval(narrow)
    caches.forget_prepared()
    render.render.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(QuantizedText, "index_metal", "size_t")
        patch.setattr(ScaledText, "b_index_metal", "size_t")
        patch.setattr(ExpertText, "index_metal", "size_t")
        seen, original = [], render.render
        patch.setattr(render, "render", lambda spec: seen.append(original(spec)) or seen[-1])
        wide = products(rows)
        mx.eval(wide)
    caches.forget_prepared()
    render.render.cache_clear()
    assert [index(one.header) for one in seen if "_index;" in one.header] == 4 * ["size_t"]
    for one, other in zip(narrow, wide, strict=True):
        assert mx.array_equal(one, other)
