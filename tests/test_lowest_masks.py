"""Additive masks down to the lowest float: exact order, no overflow in exponents of 2."""

from __future__ import annotations

import mlx.core as mx
import oracle
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm import backends
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.dtypes import FLOAT16, FLOAT32
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families import family_of
from mlx_tilegemm.families.attention import fallback
from mlx_tilegemm.families.attention.problem import MaskKind
from mlx_tilegemm.families.attention.reference import draw
from mlx_tilegemm.families.attention.spec import variant
from mlx_tilegemm.machine import chips

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


def gradients(attention, arrays):
    """Return the gradients of all operands, of a loss that no two of their elements share."""

    def loss(*arrays):
        found = [*attention(*arrays)]
        return sum(mx.sum(x * mx.arange(x.size).reshape(x.shape) / x.size) for x in found)

    return mx.grad(loss, tuple(range(len(arrays))))(*arrays)


def check_gradients(found, expected, tolerance):
    for x, y in zip(found, expected, strict=True):
        assert mx.all(mx.isfinite(x)).item()
        assert mx.max(mx.abs(x - y)).item() <= tolerance * (1 + mx.max(mx.abs(y)).item())


@pytest.mark.parametrize("name", [*NAMES, "-1e9"])
def test_backward(name):
    mask = filled(-1e9) if name == "-1e9" else MASKS[name]

    def ours(q, k, v):
        return tg.attention_chain(q, k, v, scale=0.25, mask=mask, return_lse=True)

    arrays = operands(3)
    with tg.use_backend("emulator"), tg.use_kernel("any"):
        found = gradients(ours, arrays)
    expected = gradients(lambda q, k, v: plain(q, k, v, mask), arrays)
    check_gradients(found, expected, 2.0**-6 if name == "float16" else 1e-4)


@pytest.mark.parametrize("rows", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_backward_of_sinks(rows):
    """A sink among numbers as low as the mask's has a share; one far above them has all."""
    arrays = [*operands(rows), mx.array([-1e9, 0.5])]

    def ours(q, k, v, sinks):
        mask = filled(-1e9)
        return [tg.attention_chain(q, k, v, scale=0.25, mask=mask, sinks=sinks)]

    with tg.use_backend("emulator"), tg.use_kernel("any"):
        found = gradients(ours, arrays)
    with tg.use_backend("mlx"):
        expected = gradients(ours, arrays)
    assert mx.any(expected[3] != 0).item()
    check_gradients(found, expected, 1e-4)


@pytest.mark.parametrize("sunk", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernel", ["attention_chain", "attention_decode", "mlx"])
def test_rows_are_left_within_their_bounds(kernel, sunk):
    sinks = {"sinks": FLOAT16} if sunk else {}
    problem = variant(
        q_len=5, kv_len=270, mask_kind=MaskKind.ADDITIVE, mask=FLOAT32, return_norm=True, **sinks
    )
    operands = draw(problem, Data(seed=3))
    with tg.use_backend("emulator"):
        backend = backends.resolve().backend
    if kernel == "mlx":
        run = fallback.attention(problem)
    else:
        run = kernel_run(problem, choose(problem, chips.DEFAULT, kernel).plan, backend)
    found = run(operands, (0.3,), None)
    expected = family_of(problem).reference(problem, operands, (0.3,))
    for one, held in zip(found, expected, strict=True):
        oracle.assert_close(one, held.value, held.bound, f"{problem} {kernel}")


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
