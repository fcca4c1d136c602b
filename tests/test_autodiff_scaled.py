"""Derivatives and batching of products of scaled codes, against those of dense ones."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm import formats
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.families import family_of

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return mx.array(RANDOM.standard_normal(shape).astype(np.float32))


def codes(*shape, form="e4m3"):
    return formats.encode(4 * normal(*shape), form)


X = normal(5, 96)
W = codes(40, 96)
FACTORS = 1 + mx.arange(40) % 5

SHAPES = {
    "tensor": ((), ()),
    "row": ((5, 1), (40, 1)),
    "rows alone": ((5,), (40,)),
    "block": ((5, 3), (2, 3)),
}
"""Of scales of [5, 96] and [40, 96], with blocks of 32."""


def grown(scales, shape):
    """Return a scale for each element of a matrix, of blocks of 32."""
    if scales.size == 1:
        return mx.broadcast_to(mx.reshape(scales, ()), shape)
    if scales.ndim == 1:
        scales = scales[:, None]
    for axis in (-2, -1):
        size = shape[axis]
        if scales.shape[axis] not in (1, size):
            scales = mx.take(scales, mx.arange(size) // 32, axis=axis)
    return mx.broadcast_to(scales, shape)


def dense(a, w, a_scales=None, w_scales=None, form="e4m3"):
    values = formats.decode(w, form)
    if w_scales is not None:
        values = values * grown(w_scales, w.shape)
    if a_scales is not None:
        a = a * grown(a_scales, a.shape)
    return a @ mx.swapaxes(values, -1, -2)


def close(got, expected, share=1e-5):
    assert got.shape == expected.shape
    scale = float(mx.abs(expected).max())
    got, expected = (np.array(one.astype(mx.float32)) for one in (got, expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=share * scale + 1e-6)


@pytest.mark.parametrize("backend", [pytest.param("kernels", marks=pytest.mark.slow), "mlx"])
class TestGradients:
    @pytest.fixture(autouse=True)
    def on(self, request, backend):
        if backend == "kernels":
            # Its block ends after this one's, so that no other may be around it.
            request.getfixturevalue("kernels")
            yield
        else:
            with tg.use_backend("mlx"):
                yield

    @pytest.mark.parametrize("kind", SHAPES)
    @pytest.mark.parametrize("nt", [True, False], ids=["nt", "nn"])
    def test_a_scales_and_bias(self, kind, nt):
        a_scales, w_scales = (1 + 0.1 * normal(*shape) for shape in SHAPES[kind])
        w, laid = W, lambda scales: scales
        if not nt:
            w = mx.contiguous(W.T)
            laid = lambda scales: scales.T if scales.ndim == 2 else scales  # noqa: E731

        def ours(x, a_scales, w_scales, bias):
            y = tg.fp8_scaled_matmul(
                x, w, a_scales, laid(w_scales), block=(32, 32), transpose_b=nt, bias=bias
            )
            return (y * FACTORS).sum()

        def theirs(x, a_scales, w_scales, bias):
            return ((dense(x, W, a_scales, w_scales) + bias) * FACTORS).sum()

        call = (X, a_scales, w_scales, normal(40))
        argnums = (0, 1, 2, 3)
        for got, expected in zip(
            mx.grad(ours, argnums)(*call), mx.grad(theirs, argnums)(*call), strict=True
        ):
            close(got, expected, 2e-5)

    @pytest.mark.parametrize(
        ("a_shape", "batch"),
        [((96,), ()), ((2, 3, 96), ()), ((4, 96), (3,)), ((2, 1, 4, 96), (3,)), ((96,), (3,))],
        ids=str,
    )
    def test_batches(self, a_shape, batch):
        w, a = codes(*batch, 40, 96), normal(*a_shape)
        w_scales = 1 + 0.1 * normal(*batch, 2, 3)
        a_scales = 1 + 0.1 * normal(*a_shape[:-1], 3)

        def ours(a, a_scales, w_scales):
            options = {"block": (32, 32), "transpose_b": True}
            return (tg.fp8_scaled_matmul(a, w, a_scales, w_scales, **options) * FACTORS).sum()

        def theirs(a, a_scales, w_scales):
            rows = mx.repeat(a_scales, 32, axis=-1)
            values = formats.decode(w, "e4m3") * grown(w_scales, w.shape)
            return (((a * rows) @ mx.swapaxes(values, -1, -2)) * FACTORS).sum()

        call = (a, a_scales, w_scales)
        for got, expected in zip(
            mx.grad(ours, (0, 1, 2))(*call), mx.grad(theirs, (0, 1, 2))(*call), strict=True
        ):
            close(got, expected, 2e-5)

    def test_scales_of_codes_and_none_to_codes(self):
        a, scales = codes(5, 96, form="e5m2"), 1 + 0.1 * normal(5, 3)
        options = {"a_format": "e5m2", "block": (32, 32), "transpose_b": True}
        got = mx.grad(lambda s: (tg.fp8_scaled_matmul(a, W, s, **options) ** 2).sum())(scales)
        values = formats.decode(a, "e5m2")
        close(got, mx.grad(lambda s: (dense(values, W, s) ** 2).sum())(scales), 2e-5)

    def test_scales_of_integers(self):
        a, w = (mx.array(RANDOM.integers(-128, 128, (n, 96)).astype(np.int8)) for n in (5, 40))
        scales = (0.01 + 0.001 * normal(5, 1), 0.01 + 0.001 * normal(40))

        def ours(a_scales, w_scales):
            options = {"b_format": "int8", "transpose_b": True}
            return (tg.fp8_scaled_matmul(a, w, a_scales, w_scales, **options) ** 2).sum()

        def theirs(a_scales, w_scales):
            whole = a.astype(mx.float32) @ w.astype(mx.float32).T
            return ((whole * a_scales * w_scales) ** 2).sum()

        for got, expected in zip(
            mx.grad(ours, (0, 1))(*scales), mx.grad(theirs, (0, 1))(*scales), strict=True
        ):
            close(got, expected, 2e-5)

    def test_dtypes_are_the_operands_own(self):
        call = (X.astype(mx.bfloat16), mx.ones((5, 1), mx.float16), mx.ones((40,)))
        grads = mx.grad(
            lambda x, a, b: tg.fp8_scaled_matmul(x, W, a, b, transpose_b=True).sum(), (0, 1, 2)
        )(*call)
        assert [one.dtype for one in grads] == [mx.bfloat16, mx.float16, mx.float32]

    def test_powers_have_none(self):
        powers = mx.full((40, 3), 126, dtype=mx.uint8)
        got = mx.grad(lambda x: tg.fp8_scaled_matmul(x, W, None, powers, transpose_b=True).sum())(X)
        close(got, mx.grad(lambda x: (0.5 * dense(x, W)).sum())(X))

    def test_twice(self):
        def twice(product):
            inner = mx.grad(lambda x: (product(x) ** 2).sum())
            return mx.grad(lambda x: (inner(x) ** 2).sum())(X)

        scales = 1 + 0.1 * normal(40)
        got = twice(lambda x: tg.fp8_scaled_matmul(x, W, None, scales, transpose_b=True))
        close(got, twice(lambda x: dense(x, W, None, scales)), 2e-5)

    def test_tangents(self):
        primals = [X, 1 + 0.1 * normal(5), 1 + 0.1 * normal(2, 3), normal(40)]
        tangents = [normal(*one.shape) for one in primals]
        options = {"block": (32, 32), "transpose_b": True}
        _, (got,) = mx.jvp(
            lambda x, a, b, bias: tg.fp8_scaled_matmul(x, W, a, b, bias=bias, **options),
            primals,
            tangents,
        )
        _, (expected,) = mx.jvp(lambda x, a, b, bias: dense(x, W, a, b) + bias, primals, tangents)
        close(got, expected, 2e-5)

    def test_under_checkpoint(self):
        product = lambda x: (tg.fp8_scaled_matmul(x, W, transpose_b=True) ** 2).sum()  # noqa: E731
        close(mx.grad(mx.checkpoint(product))(X), mx.grad(product)(X), 0)


def test_under_compile_on_mlx_s_own_ops():
    with tg.use_backend("mlx"):
        scales = 1 + 0.1 * normal(2, 3)
        product = lambda x: tg.fp8_scaled_matmul(  # noqa: E731
            x, W, None, scales, block=(32, 32), transpose_b=True
        )
        for options in ({}, {"shapeless": True}):
            compiled = mx.compile(product, **options)
            for x in (X, X[:2]):
                close(compiled(x), product(x), 0)
        gradient = mx.grad(lambda x: (product(x) ** 2).sum())
        close(mx.compile(gradient)(X), gradient(X), 0)


def test_under_compile_on_kernels(lazy):
    """What is traced is launched with the shapes and dtypes that the call has outside."""
    product = lambda x: tg.fp8_scaled_matmul(x, W, transpose_b=True)  # noqa: E731
    gradient = mx.grad(lambda x: (product(x) ** 2).sum())
    gradient(X)
    outside = [(name, one["output_shapes"]) for name, one in lazy.launches]
    lazy.launches.clear()
    assert mx.compile(gradient)(X).shape == X.shape
    assert [(name, one["output_shapes"]) for name, one in lazy.launches] == outside


MAPPED = {
    "a": (0, None, None, None, None),
    "a, its last axis": (2, None, None, None, None),
    "a and its scales": (1, None, 0, None, None),
    "the weight": (None, 0, None, 0, None),
    "scales of the weight": (None, None, None, 1, None),
    "a and the weight": (1, 0, None, 0, None),
    "the bias": (None, None, None, None, 0),
    "everything": (0, 1, 0, 2, 1),
}


@pytest.mark.parametrize("kind", [pytest.param("tensor", marks=pytest.mark.slow), "block"])
@pytest.mark.parametrize(
    "a_shape",
    [(5, 96), *(pytest.param(one, marks=pytest.mark.slow) for one in ((96,), (2, 5, 96)))],
    ids=str,
)
@pytest.mark.parametrize("name", MAPPED)
def test_batching_rule(kernels, name, a_shape, kind):
    """The rule, on values: MLX asks for it only while it traces, when there are none."""
    scales = [(), ()] if kind == "tensor" else [(*a_shape[:-1], 3), (2, 3)]
    axes = [
        None if axis is None else min(axis, rank)
        for axis, rank in zip(
            MAPPED[name], (len(a_shape), 2, len(scales[0]), len(scales[1]), 1), strict=True
        )
    ]
    single = [normal(*a_shape), W, *(1 + 0.1 * normal(*one) for one in scales), normal(40)]
    several = [
        one
        if axis is None
        else mx.moveaxis(mx.stack([one, one[::-1] if one.ndim else 2 * one, one]), 0, axis)
        for one, axis in zip(single, axes, strict=True)
    ]
    options = {"block": (32, 32), "transpose_b": True}
    problem = tg.explain("fp8_scaled_matmul", *single[:4], bias=single[4], **options).problem
    rule = family_of(problem).rule(problem, backend_named("emulator"))
    (got,) = rule.vmap(several, (), None, axes)
    expected = []
    for i in range(3):
        *taken, bias = (
            one if axis is None else mx.take(one, i, axis)
            for one, axis in zip(several, axes, strict=True)
        )
        expected.append(tg.fp8_scaled_matmul(*taken, bias=bias, **options))
    close(got, mx.stack(expected))


def test_vmap_on_mlx_s_own_ops():
    with tg.use_backend("mlx"):
        several = mx.stack([X, 2 * X])
        product = lambda x, w: tg.fp8_scaled_matmul(x, w, transpose_b=True)  # noqa: E731
        weights = mx.stack([W, W[::-1]])
        got = mx.vmap(product)(several, weights)
        close(got, mx.stack([product(x, w) for x, w in zip(several, weights, strict=True)]))
