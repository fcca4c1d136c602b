"""Calls mapped over an axis: values as of MLX's own ops mapped, one call of a kernel for all."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.errors import BackendError, ProblemError

KEYS = mx.random.split(mx.random.key(11), 8)
W = mx.random.normal((20, 30), key=KEYS[0])
X = mx.random.normal((4, 5, 30), key=KEYS[1])
BIAS = mx.random.normal((4, 20), key=KEYS[2])
Q = mx.random.normal((3, 1, 2, 5, 8), key=KEYS[3])
MASK = mx.random.normal((5, 5), key=KEYS[4])
CODES = mx.quantize(mx.random.normal((32, 64), key=KEYS[5]), bits=4)
ROWS = mx.random.normal((3, 5, 64), key=KEYS[6])


def product(x):
    return tg.matmul(x, W, transpose_b=True)


def plain_product(x):
    return x @ W.T


def plain_attention(q, mask):
    return mx.softmax(8**-0.5 * q @ q.swapaxes(-1, -2) + mask, axis=-1) @ q


def squared(function):
    return mx.grad(lambda *x: function(*x).square().sum())


CALLS = {
    "matmul": (product, plain_product, (X,), 0),
    "another axis": (product, plain_product, (X.swapaxes(0, 1),), 1),
    "vectors": (product, plain_product, (X[:, 0],), 0),
    "addmm": (
        lambda c, x: tg.addmm(c, x, W, 0.5, 2.0, transpose_b=True),
        lambda c, x: 0.5 * x @ W.T + 2.0 * c,
        (BIAS, X[0]),
        (0, None),
    ),
    "nothing of a call": (lambda x: x[0, 0] * product(W), lambda x: x[0, 0] * (W @ W.T), (X,), 0),
    "trees": (
        lambda given: {"y": product(given["x"][0]) + given["b"]},
        lambda given: {"y": given["x"][0] @ W.T + given["b"]},
        ({"x": [X], "b": BIAS},),
        0,
    ),
    "nested": (
        lambda x: tg.vmap(product)(x),
        plain_product,
        (mx.stack([X, 2 * X]),),
        0,
    ),
    "gradient inside": (squared(product), squared(plain_product), (X,), 0),
    "tangent inside": (
        lambda x: mx.jvp(product, [x], [x])[1][0],
        plain_product,
        (X,),
        0,
    ),
    "attention": (
        lambda q: tg.attention_chain(q, q, q, mask=MASK),
        lambda q: plain_attention(q, MASK),
        (Q,),
        0,
    ),
    "attention's gradient": (
        squared(lambda q: tg.attention_chain(q, q, q, mask=MASK)),
        squared(lambda q: plain_attention(q, MASK)),
        (Q,),
        0,
    ),
    "quantized": (
        lambda x: tg.quantized_matmul(x, *CODES, bits=4),
        lambda x: x @ mx.dequantize(*CODES, bits=4).T,
        (ROWS,),
        0,
    ),
    "quantized gradient": (
        squared(lambda x: tg.quantized_matmul(x, *CODES, bits=4)),
        squared(lambda x: x @ mx.dequantize(*CODES, bits=4).T),
        (ROWS,),
        0,
    ),
}


def close(found, expected):
    if isinstance(expected, dict):
        return all(close(found[name], expected[name]) for name in expected)
    return mx.allclose(found, expected, rtol=1e-4, atol=1e-4).item()


def on_both(name):
    # The others have kernel texts of their own.
    is_quick = name in {"matmul", "nothing of a call", "trees", "nested", "attention", "quantized"}
    kernels = pytest.param(name, "emulator", marks=() if is_quick else pytest.mark.slow)
    return [kernels, (name, "mlx")]


@pytest.mark.parametrize(("name", "backend"), [both for name in CALLS for both in on_both(name)])
def test_values(name, backend):
    ours, plain, arguments, axes = CALLS[name]
    with tg.use_backend(backend):
        found = tg.vmap(ours, in_axes=axes)(*arguments)
    assert close(found, mx.vmap(plain, in_axes=axes)(*arguments))


@pytest.mark.parametrize("backend", [pytest.param("emulator", marks=pytest.mark.slow), "mlx"])
def test_derivatives_outside(backend):
    with tg.use_backend(backend):
        found = squared(tg.vmap(product))(X)
    assert close(found, squared(plain_product)(X))


def test_compiled():
    with tg.use_backend("mlx"):
        assert close(mx.compile(tg.vmap(product))(X), plain_product(X))


def test_lazy_kernels_are_called_once_for_all(lazy):
    assert close(tg.vmap(product)(X), plain_product(X))
    assert len(lazy.launches) == 1


def test_one_problem_is_asked_for():
    with tg.use_backend("mlx"), tg.record() as seen:
        tg.vmap(product)(X)
    (problem,) = seen.problems
    assert problem.results[0].elements == 4 * 5 * 20


def test_what_is_not_mapped_is_refused():
    with pytest.raises(ProblemError, match=r"\[vmap\] Expected an argument with a mapped axis"):
        tg.vmap(product, in_axes=None)(X)


@pytest.mark.parametrize("axis", [3, -4])
def test_an_axis_that_an_argument_lacks_is_refused_as_by_mlx(axis):
    with pytest.raises(IndexError, match=r"\[vmap\] Invalid vectorization axis"):
        tg.vmap(product, in_axes=axis)(X)


def test_sizes_may_change_around_it():
    def attention(x):
        return tg.attention_chain(x, x, x, scale=0.5)

    def plain(x):
        return mx.fast.scaled_dot_product_attention(x, x, x, scale=0.5)

    product_of = mx.compile(tg.vmap(tg.matmul), shapeless=True)
    attention_of = mx.compile(tg.vmap(attention), shapeless=True)
    with tg.use_backend("mlx"):
        for count, rows in ((2, 3), (4, 5)):
            x = mx.random.normal((count, 1, 2, rows, 8))
            assert mx.allclose(product_of(x, x.swapaxes(-1, -2)), x @ x.swapaxes(-1, -2), atol=1e-5)
            assert close(attention_of(x), mx.stack([*map(plain, x)]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tg.gather_mm(x, x, rhs_indices=mx.array([0])),
        lambda x: tg.attention_chain(x, x, x, mask="causal"),
    ],
)
def test_sizes_that_stay_are_wanted(function):
    x = mx.zeros((2, 1, 1, 4, 4))
    with tg.use_backend("mlx"), pytest.raises(BackendError, match="sizes that stay"):
        mx.compile(tg.vmap(function), shapeless=True)(x)
