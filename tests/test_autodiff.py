"""Transforms of the products: gradients, tangents, batching; against float64 and MLX's autodiff."""

from __future__ import annotations

import itertools

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import oracle
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm.core import dtypes

pytestmark = pytest.mark.usefixtures("kernels")

# An addend of every kind of shape, from a product's own: none, full, of rows or columns alone, one.
ADDENDS = {
    "none": None,
    "full": lambda shape: shape,
    "columns": lambda shape: shape[-1:],
    "rows": lambda shape: (*shape[-2:-1], 1) if len(shape) > 1 else shape,
    "scalar": lambda shape: (),
}


def plain(c, a, b, *, alpha=1.0, beta=1.0, transpose_a=False, transpose_b=False):
    """Return ``addmm`` by MLX's own ops in float32."""
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    a = a.swapaxes(-1, -2) if transpose_a and a.ndim > 1 else a
    b = b.swapaxes(-1, -2) if transpose_b and b.ndim > 1 else b
    product = alpha * (a @ b)
    return product if c is None else product + beta * c.astype(mx.float32)


def ours(c, a, b, *, alpha=1.0, beta=1.0, **options):
    if c is None:
        return tg.matmul(a, b, **options)
    return tg.addmm(c, a, b, alpha=alpha, beta=beta, **options)


def summed(value, shape):
    """Sum a float64 array over the axes along which ``shape`` was broadcast to its own."""
    padded = (1,) * (value.ndim - len(shape)) + shape
    axes = tuple(i for i, (x, y) in enumerate(zip(value.shape, padded, strict=True)) if x != y)
    return value.sum(axis=axes, keepdims=True).reshape(shape)


def gradients64(c, a, b, grad, *, alpha, beta, transpose_a, transpose_b):
    """Return each gradient in float64 with the sum of the magnitudes of its terms."""
    values = []
    for absolute in (False, True):
        x, y, g = (
            np.abs(oracle.to_numpy(z)) if absolute else oracle.to_numpy(z) for z in (a, b, grad)
        )
        factor, addend_factor = (abs(alpha), abs(beta)) if absolute else (alpha, beta)
        x_matrix, y_matrix = np.atleast_2d(x), y[:, None] if y.ndim == 1 else y
        g_matrix = g[..., None] if y.ndim == 1 else g
        g_matrix = g_matrix[..., None, :] if x.ndim == 1 else g_matrix
        x_used = np.swapaxes(x_matrix, -1, -2) if transpose_a and x.ndim > 1 else x_matrix
        y_used = np.swapaxes(y_matrix, -1, -2) if transpose_b and y.ndim > 1 else y_matrix
        grad_x = factor * (g_matrix @ np.swapaxes(y_used, -1, -2))
        grad_y = factor * (np.swapaxes(x_used, -1, -2) @ g_matrix)
        grad_x = np.swapaxes(grad_x, -1, -2) if transpose_a and x.ndim > 1 else grad_x
        grad_y = np.swapaxes(grad_y, -1, -2) if transpose_b and y.ndim > 1 else grad_y
        terms = [summed(grad_x, x_matrix.shape).reshape(x.shape)]
        terms += [summed(grad_y, y_matrix.shape).reshape(y.shape)]
        terms += [] if c is None else [addend_factor * summed(g, c.shape)]
        values.append(terms)
    return list(zip(*values, strict=True))


def check_gradients(case, addend="none", alpha=1.0, beta=1.0):
    """Check gradients against float64 and MLX's autodiff, and that each has its operand's dtype."""
    a, b = case.operands()
    options = {"transpose_a": case.transpose_a, "transpose_b": case.transpose_b}
    rng = np.random.default_rng(case.seed + 1)
    out = ours(None, a, b, **options)
    shape = ADDENDS[addend]
    c = None if shape is None else strategies.random_array(rng, shape(out.shape), mx.float16)
    alpha, beta = (1.0, 1.0) if c is None else (alpha, beta)
    operands = [a, b] if c is None else [a, b, c]

    def apply(op):
        return lambda a, b, c=None: op(c, a, b, alpha=alpha, beta=beta, **options)

    value = apply(ours)(*operands)
    grad = strategies.random_array(rng, value.shape, value.dtype)
    _, got = mx.vjp(apply(ours), operands, [grad])
    wide = [x.astype(mx.float32) for x in operands]
    _, reference = mx.vjp(apply(plain), wide, [grad.astype(mx.float32)])
    expected = gradients64(c, a, b, grad, alpha=alpha, beta=beta, **options)
    for name, x, g, mlx, (value64, magnitude) in zip(
        "abc", operands, got, reference, expected, strict=False
    ):
        label = f"d{name} {a.shape} {b.shape} {options} {addend}"
        assert g.dtype == x.dtype, label
        # Every gradient sums at most this many products, and its factor is one rounding more.
        length = 2 + value.size * case.k // x.size if x.size else 0
        bound = oracle.gemm_bound(value64, magnitude, length, dtypes.from_mlx(x.dtype))
        oracle.assert_close(g, value64, bound, label)
        mlx_bound = oracle.gemm_bound(value64, magnitude, length, dtypes.FLOAT32)
        oracle.assert_close(mlx, value64, mlx_bound, "MLX's " + label)


@pytest.mark.slow
@given(
    case=strategies.gemm_cases(),
    addend=st.sampled_from(sorted(ADDENDS)),
    factors=st.sampled_from([(1.0, 1.0), (-0.5, 3.0), (2.0, 0.0)]),
)
def test_gradients_of_products(case, addend, factors):
    check_gradients(case, addend, *factors)


VECTORS = [((7,), (7, 3)), ((5, 7), (7,)), ((7,), (7,)), ((7,), (2, 7, 3)), ((2, 5, 7), (7,))]


@pytest.mark.slow
@pytest.mark.parametrize(("a_shape", "b_shape"), VECTORS, ids=str)
@pytest.mark.parametrize("addend", ["none", "full", "scalar"])
def test_gradients_of_products_with_vectors(a_shape, b_shape, addend):
    case = strategies.GemmCase(
        a_shape=a_shape,
        b_shape=b_shape,
        a=mx.float16,
        b=mx.bfloat16,
        transpose_a=False,
        transpose_b=False,
        seed=3,
    )
    check_gradients(case, addend, -0.5, 3.0)


def float_operands(*shapes, dtypes=(mx.float16, mx.bfloat16, mx.float32), seed=0):
    rng = np.random.default_rng(seed)
    kinds = itertools.cycle(dtypes)
    return [strategies.random_array(rng, shape, next(kinds)) for shape in shapes]


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_gradients_are_slopes(transpose_a, transpose_b):
    """Against finite differences of the formula in float64: no derivative is worked out."""
    a, b, c = float_operands((3, 9, 9), (9, 9), (9,), dtypes=(mx.float32,))
    options = {"transpose_a": transpose_a, "transpose_b": transpose_b, "alpha": -0.5, "beta": 3.0}
    rng = np.random.default_rng(1)

    def loss(a, b, c):
        return mx.sin(ours(c, a, b, **options)).sum()

    gradients = mx.grad(loss, argnums=(0, 1, 2))(a, b, c)
    operands = [oracle.to_numpy(x) for x in (a, b, c)]
    for i, gradient in enumerate(gradients):
        direction = rng.standard_normal(operands[i].shape)
        step = 1e-5
        ends = []
        for sign in (1, -1):
            moved = list(operands)
            moved[i] = moved[i] + sign * step * direction
            ends.append(_loss_of_numpy(moved, options))
        slope = (ends[0] - ends[1]) / (2 * step)
        got = float((oracle.to_numpy(gradient) * direction).sum())
        scale = np.abs(oracle.to_numpy(gradient) * direction).sum()
        assert abs(got - slope) <= 1e-4 * scale, (i, got, slope)


def _loss_of_numpy(operands, options):
    a, b, c = operands
    a = np.swapaxes(a, -1, -2) if options["transpose_a"] else a
    b = np.swapaxes(b, -1, -2) if options["transpose_b"] else b
    return np.sin(options["alpha"] * (a @ b) + options["beta"] * c).sum()


@pytest.mark.slow
@given(case=strategies.gemm_cases(), addend=st.sampled_from(sorted(ADDENDS)))
def test_tangents_of_products(case, addend):
    a, b = case.operands()
    options = {"transpose_a": case.transpose_a, "transpose_b": case.transpose_b}
    shape = ADDENDS[addend]
    rng = np.random.default_rng(case.seed + 1)
    out = ours(None, a, b, **options)
    c = None if shape is None else strategies.random_array(rng, shape(out.shape), mx.float16)
    operands = [a, b] if c is None else [a, b, c]
    tangents = [strategies.random_array(rng, x.shape, x.dtype) for x in operands]
    factors = {} if c is None else {"alpha": -0.5, "beta": 3.0}
    (value,), (got,) = mx.jvp(
        lambda a, b, c=None: ours(c, a, b, **factors, **options), operands, tangents
    )
    assert got.dtype == value.dtype
    numpy_options = {**factors, **options}
    numpy_options.pop("beta", None)
    left, left_size = oracle.gemm(tangents[0], b, **numpy_options)
    right, right_size = oracle.gemm(a, tangents[1], **numpy_options)
    expected, magnitude = left + right, left_size + right_size
    if c is not None:
        expected = expected + 3.0 * oracle.to_numpy(tangents[2])
        magnitude = magnitude + 3.0 * np.abs(oracle.to_numpy(tangents[2]))
    bound = oracle.gemm_bound(expected, magnitude, 2 * case.k + 4, dtypes.from_mlx(got.dtype))
    oracle.assert_close(got, expected, bound, f"{a.shape} {b.shape} {options} {addend}")


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_operands_without_a_tangent_are_constants(which):
    operands = float_operands((5, 9), (9, 3), (3,))

    def moved(*values):
        a, b, c = (values[which.index(i)] if i in which else operands[i] for i in range(3))
        return tg.addmm(c, a, b, alpha=0.5)

    given_operands = [operands[i] for i in which]
    _, (alone,) = mx.jvp(moved, given_operands, given_operands)
    zero = [x if i in which else mx.zeros_like(x) for i, x in enumerate(operands)]
    _, (full,) = mx.jvp(lambda a, b, c: tg.addmm(c, a, b, alpha=0.5), operands, zero)
    np.testing.assert_allclose(np.array(alone), np.array(full), rtol=1e-5, atol=1e-6)


def test_gradients_are_differentiable_themselves():
    a, b, c = float_operands((2, 5, 9), (3, 9), (3,), dtypes=(mx.float32,))

    def curvature(op):
        def loss(a, b):
            return (op(c, a, b, alpha=0.5, transpose_b=True) ** 3).sum()

        def gradient_size(a, b):
            return (mx.grad(loss, argnums=1)(a, b) ** 2).sum()

        return mx.grad(gradient_size, argnums=(0, 1))(a, b)

    for got, expected in zip(curvature(ours), curvature(plain), strict=True):
        scale = float(mx.abs(expected).max())
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=0, atol=1e-5 * scale)


def test_a_gradient_of_integers_is_zero():
    x = mx.ones((5, 9), dtype=mx.int8)
    _, gradients = mx.vjp(
        lambda w: tg.matmul(x, w).astype(mx.float32),
        [mx.ones((9, 3), dtype=mx.int8)],
        [mx.ones((5, 3))],
    )
    assert not gradients[0].any()


def test_gradients_run_where_the_call_did():
    x, w = float_operands((5, 9), (9, 3))

    def loss(w):
        with tg.use_backend("emulator"):
            return tg.matmul(x, w).sum()

    with tg.use_backend("mlx"):
        gradient = mx.grad(loss)(w)
    expected = mx.broadcast_to(x.astype(mx.float32).sum(axis=0)[:, None], w.shape)
    np.testing.assert_allclose(oracle.to_numpy(gradient), np.array(expected), rtol=1e-2, atol=1e-2)


class TestGraph:
    """What a traced call consists of, as it would on Metal."""

    @pytest.mark.slow
    @pytest.mark.parametrize("transpose_b", [False, True])
    @pytest.mark.parametrize("transpose_a", [False, True])
    def test_gradients_take_the_operands_as_they_are(self, lazy, transpose_a, transpose_b):
        a, b = float_operands((9, 9), (9, 9))
        grad = mx.random.normal((9, 9))
        mx.vjp(
            lambda a, b: tg.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b),
            [a, b],
            [grad],
        )
        assert len(lazy.launches) == 3
        stored = {(9, 9)}
        for name, launch in lazy.launches:
            assert name.startswith("tilegemm_gem")
            assert {x.shape for x in launch["inputs"][:2]} == stored
            dtypes_in = [x.dtype for x in launch["inputs"][:2]]
            assert len(set(dtypes_in)) == 2, "no operand was cast"
        assert [launch["output_dtypes"] for _, launch in lazy.launches] == [
            [mx.float32],
            [a.dtype],
            [b.dtype],
        ]

    def test_a_shared_weight_s_gradient_is_one_product(self, lazy):
        a, b = float_operands((2, 3, 5, 9), (7, 9))
        mx.vjp(lambda b: tg.matmul(a, b, transpose_b=True), [b], [mx.random.normal((2, 3, 5, 7))])
        weight_gradient = lazy.launches[-1][1]
        assert weight_gradient["output_shapes"] == [(7, 9)]
        assert [x.shape for x in weight_gradient["inputs"][:2]] == [(30, 7), (30, 9)]

    def test_compiled_training_is_traced(self, lazy):
        x, w, bias = float_operands((5, 9), (3, 9), (3,))

        def loss(w, bias):
            return tg.addmm(bias, x, w, transpose_b=True).sum()

        traced = []

        @mx.compile
        def step(w, bias):
            gradients = mx.value_and_grad(loss, argnums=(0, 1))(w, bias)
            traced.append(len(lazy.launches))
            return gradients

        _, (grad_w, grad_bias) = step(w, bias)
        step(w, bias)
        assert (grad_w.shape, grad_w.dtype) == (w.shape, w.dtype)
        assert (grad_bias.shape, grad_bias.dtype) == (bias.shape, bias.dtype)
        assert traced == [3]

    def test_an_export_is_of_kernels_alone(self, lazy):
        x, w = float_operands((5, 9), (9, 3))
        with pytest.raises(ValueError, match="CustomTransforms"):
            mx.export_function(lambda _: None, tg.matmul, x, w)
        with tg.use_gradients(False):
            mx.export_function(lambda _: None, tg.matmul, x, w)


BATCHED = [
    ((4, 5, 9), 0, (9, 3), None),
    ((5, 4, 9), 1, (4, 9, 3), 0),
    ((5, 9), None, (9, 3, 4), 2),
    ((4, 9), 0, (9, 3), None),
    ((9,), None, (4, 9, 3), 0),
    ((4, 9), 0, (9, 4), 1),
    ((2, 5, 9, 4), 3, (9, 3), None),
    ((2, 4, 1, 5, 9), 1, (3, 4, 9, 7), 1),
    ((4, 5, 9), 0, (2, 9, 3), None),
]


class TestVmap:
    @pytest.mark.parametrize(("a_shape", "a_axis", "b_shape", "b_axis"), BATCHED, ids=str)
    def test_products(self, lazy, a_shape, a_axis, b_shape, b_axis):
        a, b = float_operands(a_shape, b_shape)
        got = mx.vmap(tg.matmul, in_axes=(a_axis, b_axis))(a, b)
        lazy.launches.clear()
        wide = (a.astype(mx.float32), b.astype(mx.float32))
        expected = mx.vmap(mx.matmul, in_axes=(a_axis, b_axis))(*wide)
        assert (got.shape, got.dtype) == (expected.shape, mx.float32)
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("c_shape", [(), (3,), (5, 1), (5, 3), (2, 1, 3)], ids=str)
    @pytest.mark.parametrize("mapped", [(0, 0, 0), (0, None, None), (None, None, 0), (None, 1, 0)])
    def test_addends_and_transposes(self, lazy, c_shape, mapped):
        shapes = [c_shape, (2, 9, 5), (3, 9)]
        shapes = [
            shape if axis is None else (*shape[:axis], 4, *shape[axis:])
            for shape, axis in zip(shapes, mapped, strict=True)
        ]
        c, a, b = float_operands(*shapes, dtypes=(mx.float32,))
        options = {"alpha": 0.5, "beta": 2.0, "transpose_a": True, "transpose_b": True}
        got = mx.vmap(lambda c, a, b: tg.addmm(c, a, b, **options), in_axes=mapped)(c, a, b)
        expected = mx.vmap(lambda c, a, b: plain(c, a, b, **options), in_axes=mapped)(c, a, b)
        assert got.shape == expected.shape
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-5, atol=1e-4)

    def test_a_mapped_row_batch_becomes_one_product(self, lazy):
        a, b = float_operands((6, 5, 9), (9, 3))
        mx.eval(mx.vmap(lambda a: tg.matmul(a, b))(a))
        launch = lazy.launches[-1][1]
        assert launch["output_shapes"] == [(6, 5, 3)]
        assert launch["inputs"][1] is not None
        assert launch["grid"][2] == 1

    @pytest.mark.slow
    def test_gradients_of_a_batch_and_batches_of_gradients(self, lazy):
        a, b = float_operands((4, 5, 9), (9, 3), dtypes=(mx.float32,))

        def loss(op, a, b):
            return (op(a, b) ** 2).sum()

        for op_a in (0, 1):
            each = mx.vmap(mx.grad(lambda a, b: loss(tg.matmul, a, b), op_a), in_axes=(0, None))
            each_plain = mx.vmap(
                mx.grad(lambda a, b: loss(mx.matmul, a, b), op_a), in_axes=(0, None)
            )
            got, expected = each(a, b), each_plain(a, b)
            np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-4, atol=1e-4)
        batch = mx.vmap(tg.matmul, in_axes=(0, None))
        got = mx.grad(lambda b: loss(batch, a, b))(b)
        expected = mx.grad(lambda b: loss(mx.matmul, a, b))(b)
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-4, atol=1e-4)


def test_a_batch_invariant_product_stays_one(lazy):
    a, b = float_operands((6, 40), (40, 33))
    mapped = mx.vmap(lambda row: tg.matmul(row, b, batch_invariant=True))
    np.testing.assert_array_equal(
        np.array(mapped(a)), np.array(tg.matmul(a, b, batch_invariant=True))
    )
    np.testing.assert_array_equal(np.array(mapped(a[:1])), np.array(mapped(a))[:1])


class Model(nn.Module):
    """Two linear layers of float16 weights on float32 activations."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.first = strategies.random_array(rng, (16, 9), mx.float16)
        self.bias = strategies.random_array(rng, (16,), mx.float32)
        self.second = strategies.random_array(rng, (3, 16), mx.bfloat16)
        self.linear = ours

    def __call__(self, x):
        hidden = self.linear(self.bias, x, self.first, transpose_b=True)
        return self.linear(None, mx.maximum(hidden, 0.0), self.second, transpose_b=True)


def model_gradients(linear, wrap=lambda function: function):
    model = Model()
    model.linear = linear
    x = mx.array(np.random.default_rng(1).standard_normal((2, 5, 9)).astype(np.float32))

    def loss(model, x):
        return (wrap(model)(x) ** 2).mean()

    value, gradients = nn.value_and_grad(model, loss)(model, x)
    return value, gradients


def checked_model(got, expected):
    value, gradients = got
    plain_value, plain_gradients = expected
    np.testing.assert_allclose(value.item(), plain_value.item(), rtol=1e-5)
    for name in ("first", "bias", "second"):
        x, y = gradients[name], plain_gradients[name]
        assert x.dtype == y.dtype
        scale = np.abs(oracle.to_numpy(y)).max()
        unit = dtypes.from_mlx(x.dtype).unit_roundoff
        difference = np.abs(oracle.to_numpy(x) - oracle.to_numpy(y)).max()
        assert difference <= 4 * (unit + 2.0**-18) * scale, name


@pytest.mark.slow
def test_a_model_trains():
    checked_model(model_gradients(ours), model_gradients(plain))


@pytest.mark.slow
def test_a_checkpointed_model_trains():
    wrapped = model_gradients(ours, lambda model: nn.utils.checkpoint(model))
    checked_model(wrapped, model_gradients(plain))


def test_inside_a_custom_function():
    x, w = float_operands((5, 9), (9, 3), dtypes=(mx.float32,))

    @mx.custom_function
    def doubled(x, w):
        return 2.0 * tg.matmul(x, w)

    @doubled.vjp
    def doubled_vjp(primals, cotangent, output):
        _, gradients = mx.vjp(tg.matmul, list(primals), [cotangent])
        return [7.0 * gradient for gradient in gradients]

    got = mx.grad(lambda w: doubled(x, w).sum())(w)
    expected = 7.0 * mx.grad(lambda w: mx.matmul(x, w).sum())(w)
    np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-5, atol=1e-5)
