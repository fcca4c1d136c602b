"""Transforms inside transforms: as of MLX's own ops, or a clear error, and never a silent zero."""

from __future__ import annotations

from itertools import product

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm import emulator, formats
from mlx_tilegemm.errors import BackendError

SIZE = 3


def grad(f):
    return mx.grad(lambda x: mx.sum(f(x) * mx.cos(mx.stop_gradient(x))))


def vjp(f):
    # What an inner function holds of an outer one is followed, too.
    return lambda x: mx.vjp(lambda y: f(y) * x, [x], [mx.sin(x)])[1][0]


def jvp(f):
    return lambda x: mx.jvp(lambda y: f(y) * x, [x], [W])[1][0]


def vmap(f):
    return lambda x: mx.sum(mx.vmap(f)(mx.stack([x, 0.5 * x])), axis=0)


TRANSFORMS = {
    "grad": grad,
    "vjp": vjp,
    "jvp": jvp,
    "vmap": vmap,
    "checkpoint": mx.checkpoint,
    "compile": mx.compile,
}
PLACEHOLDERS = {"vmap", "compile"}
"""They call functions with arrays that have no values, which an emulator cannot run on."""


def attention(q, k, v, scale):
    weights = mx.softmax(scale * q @ mx.swapaxes(k, -1, -2), axis=-1)
    return weights @ v


def gemm(c, a, b):
    return 0.5 * (a @ b) - 2.0 * c


PLAIN = {
    "matmul": lambda x, w: mx.tanh(x) @ mx.swapaxes(x, -1, -2) * w,
    "addmm": lambda x, w: gemm(x[0], mx.tanh(x) * w, x),
    "attention_chain": lambda x, w: attention(
        x[None, None], mx.sin(x * w)[None, None], x[None, None], 0.5
    )[0, 0],
}
OURS = {
    "matmul": lambda x, w: tg.matmul(mx.tanh(x), x, transpose_b=True) * w,
    "addmm": lambda x, w: tg.addmm(x[0], mx.tanh(x) * w, x, alpha=0.5, beta=-2.0),
    "attention_chain": lambda x, w: tg.attention_chain(
        x[None, None], mx.sin(x * w)[None, None], x[None, None], scale=0.5
    )[0, 0],
}

X = mx.random.normal((SIZE, SIZE), key=mx.random.key(1))
W = mx.random.normal((SIZE, SIZE), key=mx.random.key(2))


def nested(names, function):
    for name in reversed(names):
        function = TRANSFORMS[name](function)
    return function


def outcome(names, function):
    """Return the value of a nesting, or the error it raises."""
    try:
        value = nested(names, lambda x: function(mx.tanh(function(x, W)), W))(X)
        mx.eval(value)
    except Exception as error:
        return error
    return value


def check(op, names, backend):
    expected = outcome(names, PLAIN[op])
    with tg.use_backend(backend):
        got = outcome(names, OURS[op])
    if isinstance(expected, Exception):
        assert isinstance(got, Exception), f"MLX refuses {names}: {expected}"
        return
    if backend == "emulator" and isinstance(got, BackendError):
        assert PLACEHOLDERS & {*names}, f"{names}: {got}"
        assert str(got).startswith("[emulator] Expected arrays with values, got ")
        return
    assert isinstance(got, mx.array), f"{names}: {got!r}"
    size = mx.max(mx.abs(expected)).item()
    assert size > 0.0
    assert mx.max(mx.abs(got - expected)).item() <= 2e-5 * size, names


DERIVATIVES = {"grad", "vjp", "jvp"}

WIDE = 32
MATRICES = mx.random.normal((2, WIDE, WIDE), key=mx.random.key(6)) / 4
QUANTIZED = mx.quantize(MATRICES, group_size=WIDE, bits=4)
CODES = formats.encode(50 * MATRICES[0], "e4m3")
CHOSEN = mx.array([1, 0, 1], dtype=mx.uint32)
SEGMENTS = mx.array([[0, 1], [1, 3]], dtype=mx.uint32)


def wide(x):
    return mx.tile(mx.tanh(x), (1, -(-WIDE // SIZE)))[:, :WIDE]


def chosen(matrices):
    """Return ``matrices[CHOSEN]``, whose gradient MLX cannot follow forwards."""
    one_hot = (CHOSEN[:, None] == mx.arange(2)).astype(mx.float32)
    return mx.unflatten(one_hot @ mx.flatten(matrices, 1), 1, (WIDE, WIDE))


def decoded(factor):
    biases = mx.repeat(QUANTIZED[2], WIDE, axis=-1)
    return (mx.dequantize(*QUANTIZED, group_size=WIDE, bits=4) - biases) * factor + biases


def scaled(factor):
    return QUANTIZED[0], QUANTIZED[1] * factor, QUANTIZED[2]


def corner(x):
    """Return ``x[0, 0]``, whose gradient MLX cannot follow forwards."""
    return mx.sum(x[:1, :1])


def recurrence(x, w):
    keys, state, rows = mx.tanh(x * w), mx.zeros((SIZE, SIZE)), []
    for i in range(SIZE):
        q, k = x[i : i + 1], keys[i : i + 1]
        state = state * mx.sigmoid(q[:, :1])
        state = state + mx.sigmoid(q[:, 1:2]) * (q - k @ state.T).T @ k
        rows.append(0.5 * q @ state.T)
    return mx.concatenate(rows) + state


def delta(x, w):
    heads = [one[None, :, None] for one in (x, mx.tanh(x * w), x)]
    gates = [mx.sigmoid(x[None, :, i : i + 1]) for i in (0, 1)]
    y, state = tg.gated_delta_update(*heads, *gates, scale=0.5)
    return y[0, :, 0] + state[0, 0]


PLAIN |= {
    "quantized_matmul": lambda x, w: (wide(x) @ decoded(w[0, 0])[0].T)[:, :SIZE] * x,
    "fp8_scaled_matmul": lambda x, w: (
        (wide(x) @ (formats.decode(CODES, "e4m3") * corner(x)).T)[:, :SIZE] / 50 * w
    ),
    "gather_mm": lambda x, w: (
        (wide(x)[:, None] @ chosen(MATRICES * w[0, 0]))[..., :SIZE].squeeze(1) * x
    ),
    "gather_qmm": lambda x, w: (
        (wide(x)[:, None] @ mx.swapaxes(chosen(decoded(corner(x))), -1, -2))[..., :SIZE].squeeze(1)
        * w
    ),
    "segmented_mm": lambda x, w: sum(
        (i + 1) * mx.tanh(x)[:, start:end] @ (x * w)[start:end]
        for i, (start, end) in enumerate(SEGMENTS.tolist())
    ),
    "gated_delta_update": recurrence,
}
OURS |= {
    "quantized_matmul": lambda x, w: (
        tg.quantized_matmul(wide(x), *(one[0] for one in scaled(w[0, 0])), group_size=WIDE, bits=4)[
            :, :SIZE
        ]
        * x
    ),
    "fp8_scaled_matmul": lambda x, w: (
        tg.fp8_scaled_matmul(wide(x), CODES, None, corner(x), transpose_b=True)[:, :SIZE] / 50 * w
    ),
    "gather_mm": lambda x, w: (
        tg.gather_mm(wide(x)[:, None], MATRICES * w[0, 0], rhs_indices=CHOSEN)[..., :SIZE].squeeze(
            1
        )
        * x
    ),
    "gather_qmm": lambda x, w: (
        tg.gather_qmm(
            wide(x)[:, None],
            *scaled(corner(x)),
            rhs_indices=CHOSEN,
            group_size=WIDE,
            bits=4,
        )[..., :SIZE].squeeze(1)
        * w
    ),
    "segmented_mm": lambda x, w: mx.sum(
        mx.array([1.0, 2.0])[:, None, None] * tg.segmented_mm(mx.tanh(x), x * w, SEGMENTS), axis=0
    ),
    "gated_delta_update": delta,
}
FIRST = ("matmul", "addmm", "attention_chain")
LATER = [op for op in OURS if op not in FIRST]


def nestings(order):
    """Yield nestings with at most one transform that is no derivative, from the third order on."""
    for names in product(TRANSFORMS, repeat=order):
        if order < 3 or sum(name not in DERIVATIVES for name in names) <= 1:
            yield names


@pytest.mark.parametrize("backend", ["emulator", "mlx"])
@pytest.mark.parametrize("op", FIRST)
@pytest.mark.parametrize("order", [1, *(pytest.param(x, marks=pytest.mark.slow) for x in (2, 3))])
def test_as_mlx_nests_its_own_ops(op, order, backend):
    for names in nestings(order):
        check(op, names, backend)


@pytest.mark.parametrize("backend", [pytest.param("emulator", marks=pytest.mark.slow), "mlx"])
@pytest.mark.parametrize("op", LATER)
def test_derivatives_of_the_other_families(op, backend):
    for name in DERIVATIVES:
        check(op, (name,), backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["emulator", "mlx"])
@pytest.mark.parametrize("op", LATER)
def test_their_derivatives_of_derivatives(op, backend):
    for names in product(DERIVATIVES, repeat=2):
        check(op, names, backend)


@pytest.mark.parametrize("backend", ["emulator", "mlx"])
@pytest.mark.parametrize("op", ["matmul", "addmm"])
@pytest.mark.parametrize("outer", sorted(DERIVATIVES))
def test_tangents_are_differentiable(op, outer, backend):
    check(op, (outer, "jvp"), backend)


def kernel(formula):
    """Return a function of an array by a kernel that is called in the emulator directly."""
    kernel = emulator.metal_kernel(
        "power", ["x"], ["y"], f"uint i = thread_position_in_grid.x; y[i] = {formula};"
    )

    def call(x):
        return kernel(
            inputs=[x],
            output_shapes=[x.shape],
            output_dtypes=[x.dtype],
            grid=(SIZE, 1, 1),
            threadgroup=(SIZE, 1, 1),
        )[0]

    return call


def with_rules(kernels):
    """Return the first kernel, of which each next one is the derivative."""
    run, *derivatives = kernels
    function = mx.custom_function(lambda x: run(mx.stop_gradient(x)))
    function.vjp(lambda x, cotangent, _: with_rules(derivatives)(x) * cotangent)
    function.jvp(lambda x, tangent: with_rules(derivatives)(x) * tangent)
    return function


def tangent(f):
    return lambda x: mx.jvp(f, [x], [mx.ones_like(x)])[1][0]


def cotangent(f):
    return lambda x: mx.vjp(f, [x], [mx.ones_like(x)])[1][0]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_rules_may_call_emulated_kernels(order):
    cube = with_rules(
        [kernel(x) for x in ("x[i] * x[i] * x[i]", "3 * x[i] * x[i]", "6 * x[i]", "6 + 0 * x[i]")]
    )
    x = mx.array([0.5, 1.0, 2.0])
    for transforms in product((tangent, cotangent), repeat=order):
        got, expected = (lambda x: cube(mx.sin(x) * x)), (lambda x: (mx.sin(x) * x) ** 3)
        for transform in transforms:
            got, expected = transform(got), transform(expected)
        assert mx.allclose(got(x), expected(x), rtol=1e-4, atol=1e-4), transforms


@pytest.mark.parametrize("axis", [0, 1])
def test_addends_of_products_with_vectors_are_mapped_along_any_axis(axis):
    a = mx.random.normal((2, 2, 2, 3, 4), key=mx.random.key(3))
    b = mx.random.normal((4,), key=mx.random.key(4))
    c = mx.random.normal((2, 2), key=mx.random.key(5))[:, :1] if axis == 0 else mx.array([[1, 5.0]])
    with tg.use_backend("mlx"):
        got = mx.vmap(lambda a, c: tg.addmm(c, a, b), in_axes=(0, axis))(a, c)
    assert mx.allclose(got, a @ b + c.reshape(2, 1, 1, 1), rtol=1e-5, atol=1e-5)
