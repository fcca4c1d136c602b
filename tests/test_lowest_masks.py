"""Additive masks down to the lowest float: exact order, no overflow in exponents of 2."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlx_tilegemm as tg

KEYS = 40
LOWEST = mx.finfo(mx.float32).min


def filled(value, dtype=mx.float32, **others):
    row = mx.full((KEYS,), value)
    for at, other in others.items():
        row[int(at[1:])] = other
    return row.astype(dtype)


MASKS = {
    "bfloat16": filled(mx.finfo(mx.bfloat16).min, mx.bfloat16),
    "float16": filled(mx.finfo(mx.float16).min, mx.float16),
    "float32": filled(LOWEST),
    "above the rest": filled(-3e38, _7=-2.7e38),
    "on both sides of overflow": filled(-3e38, _5=-2.3e38, _6=-2.2e38),
    "some hidden": filled(LOWEST, _3=0.0, _4=0.0),
    "all but one at -inf": filled(-mx.inf, _3=LOWEST),
    "infinite": filled(-mx.inf, _3=0.0),
}
# Each dtype has a kernel of its own; the other masks are float32, too.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("bfloat16", "float16") else name
    for name in MASKS
]
ONE_KEY_AT_LEAST = [name for name in MASKS if name not in ("bfloat16", "float16", "float32")]


def operands(rows):
    keys = mx.random.split(mx.random.key(rows), 3)
    shapes = ((1, 2, rows, 16), (1, 1, KEYS, 16), (1, 1, KEYS, 16))
    return [mx.random.normal(x, key=key) for x, key in zip(shapes, keys, strict=True)]


def plain(q, k, v, mask):
    """Return the attention and its log-sum-exp in natural units, where no mask overflows."""
    scores = 0.25 * q @ mx.swapaxes(k, -1, -2) + mask.astype(mx.float32)
    return mx.softmax(scores, axis=-1) @ v, mx.logsumexp(scores, axis=-1)


@pytest.mark.parametrize("kernel", ["attention_chain", "attention_decode"])
@pytest.mark.parametrize("name", NAMES)
def test_forward(name, kernel):
    q, k, v = operands(3)
    with tg.use_backend("emulator"), tg.use_kernel(kernel):
        found, lse = tg.attention_chain(q, k, v, scale=0.25, mask=MASKS[name], return_lse=True)
    expected, expected_lse = plain(q, k, v, MASKS[name])
    # Scores near -65504 have steps of 2^-7 in float32, in units of either base.
    tolerance = 2.0**-5 if name == "float16" else 1e-5
    assert mx.allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert mx.allclose(lse, expected_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_backward(name):
    q, k, v = operands(3)
    mask = MASKS[name]

    def loss(attention):
        return mx.grad(lambda q, k, v: mx.sum(attention(q, k, v) * mx.arange(16.0)), (0, 1, 2))

    with tg.use_backend("emulator"), tg.use_kernel("any"):
        found = loss(lambda q, k, v: tg.attention_chain(q, k, v, scale=0.25, mask=mask))(q, k, v)
    expected = loss(lambda q, k, v: plain(q, k, v, mask)[0])(q, k, v)
    assert all(mx.all(mx.isfinite(x)).item() for x in found)
    if name in ONE_KEY_AT_LEAST:
        pairs = zip(found, expected, strict=True)
        assert all(mx.allclose(x, y, rtol=1e-4, atol=1e-4) for x, y in pairs)


@pytest.mark.parametrize("sink", [LOWEST, -mx.inf, 0.5])
@pytest.mark.parametrize("rows", [1, 9])
def test_sinks(rows, sink):
    q, k, v = operands(rows)
    sinks = mx.full((2,), sink)
    options = {"scale": 0.25, "mask": MASKS["float32"], "sinks": sinks}
    with tg.use_backend("emulator"), tg.use_kernel("any"):
        found = tg.attention_chain(q, k, v, **options)
    with tg.use_backend("mlx"):
        expected = tg.attention_chain(q, k, v, **options)
    assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)
