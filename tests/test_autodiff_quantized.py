"""Derivatives and batching of products with quantized weights, against those of dense ones."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.families import family_of


def weight(rows=64, columns=128, batch=(), seed=0):
    w = mx.random.normal((*batch, rows, columns), key=mx.random.key(seed))
    return mx.quantize(w, 64, 4)


W, SCALES, BIASES = weight()
X = mx.random.normal((5, 128), key=mx.random.key(1))
FACTORS = 1 + mx.arange(64) % 5


def dense(w, scales, biases, transpose=True):
    values = mx.dequantize(w, scales, biases, 64, 4, dtype=mx.float32)
    return mx.swapaxes(values, -1, -2) if transpose else values


def close(got, expected, share=1e-5):
    assert got.shape == expected.shape
    scale = float(mx.abs(expected).max())
    np.testing.assert_allclose(np.array(got), np.array(expected), rtol=0, atol=share * scale + 1e-6)


@pytest.mark.parametrize("backend", ["kernels", "mlx"])
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

    @pytest.mark.parametrize(
        ("x_shape", "batch"),
        [((5, 128), ()), ((128,), ()), ((2, 3, 128), ()), ((4, 128), (3,)), ((3, 4, 128), (3,)),
         ((2, 1, 4, 128), (3,)), ((128,), (3,))],
        ids=str,
    )  # fmt: skip
    def test_x_scales_and_biases(self, x_shape, batch):
        w, scales, biases = weight(batch=batch)
        x = mx.random.normal(x_shape, key=mx.random.key(2))

        def ours(x, scales, biases):
            return (tg.quantized_matmul(x, w, scales, biases) * FACTORS).sum()

        def theirs(x, scales, biases):
            return ((x @ dense(w, scales, biases)) * FACTORS).sum()

        for got, expected in zip(
            mx.grad(ours, (0, 1, 2))(x, scales, biases),
            mx.grad(theirs, (0, 1, 2))(x, scales, biases),
            strict=True,
        ):
            close(got, expected)

    def test_not_transposed(self):
        x = X[:, :64]

        def ours(x, scales, biases):
            return (tg.quantized_matmul(x, W, scales, biases, False) ** 2).sum()

        def theirs(x, scales, biases):
            return ((x @ dense(W, scales, biases, False)) ** 2).sum()

        for got, expected in zip(
            mx.grad(ours, (0, 1, 2))(x, SCALES, BIASES),
            mx.grad(theirs, (0, 1, 2))(x, SCALES, BIASES),
            strict=True,
        ):
            close(got, expected, 2e-5)

    def test_dtypes_are_the_operands_own(self):
        call = (X.astype(mx.bfloat16), SCALES.astype(mx.float16), BIASES)
        grads = mx.grad(
            lambda x, s, b: tg.quantized_matmul(x, W, s, b, out_dtype=mx.float16).sum(), (0, 1, 2)
        )(*call)
        assert [one.dtype for one in grads] == [mx.bfloat16, mx.float16, mx.float32]

    @pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
    def test_small_floats(self, mode):
        w, scales = mx.quantize(mx.random.normal((64, 128), key=mx.random.key(4)), mode=mode)
        values = mx.dequantize(w, scales, mode=mode, dtype=mx.float32)
        got = mx.grad(lambda x: (tg.quantized_matmul(x, w, scales, mode=mode) ** 2).sum())(X)
        close(got, mx.grad(lambda x: ((x @ values.T) ** 2).sum())(X), 2e-5)

    def test_tensor_scale_and_bias(self):
        w, scales = mx.quantize(mx.random.normal((64, 128), key=mx.random.key(4)), mode="nvfp4")
        values = mx.dequantize(w, scales, mode="nvfp4", dtype=mx.float32)
        bias = mx.random.normal((64,), key=mx.random.key(5))

        def ours(scale, bias):
            got = tg.quantized_matmul(X, w, scales, mode="nvfp4", global_scale=scale, bias=bias)
            return (got**2).sum()

        def theirs(scale, bias):
            return ((X @ values.T * (scale / 2688) + bias) ** 2).sum()

        call = (mx.array(300.0), bias)
        for got, expected in zip(
            mx.grad(ours, (0, 1))(*call), mx.grad(theirs, (0, 1))(*call), strict=True
        ):
            close(got, expected, 2e-5)

    def test_twice(self):
        def twice(product):
            inner = mx.grad(lambda x: (product(x) ** 2).sum())
            return mx.grad(lambda x: (inner(x) ** 2).sum())(X)

        values = dense(W, SCALES, BIASES)
        got = twice(lambda x: tg.quantized_matmul(x, W, SCALES, BIASES))
        close(got, twice(lambda x: x @ values), 2e-5)

    def test_tangents_of_x(self):
        tangent = mx.random.normal(X.shape, key=mx.random.key(6))
        product = lambda x: tg.quantized_matmul(x, W, SCALES, BIASES)  # noqa: E731
        _, (got,) = mx.jvp(product, [X], [tangent])
        close(got, tangent @ dense(W, SCALES, BIASES))

    def test_under_checkpoint(self):
        product = lambda x: (tg.quantized_matmul(x, W, SCALES, BIASES) ** 2).sum()  # noqa: E731
        close(mx.grad(mx.checkpoint(product))(X), mx.grad(product)(X), 0)


def test_tangents_of_everything(kernels):
    w, scales = mx.quantize(mx.random.normal((64, 128), key=mx.random.key(4)), mode="nvfp4")
    values = mx.dequantize(w, scales, mode="nvfp4", dtype=mx.float32)
    primals = [X, SCALES, BIASES, mx.array(300.0), mx.zeros((64,))]
    tangents = [mx.random.normal(one.shape, key=mx.random.key(9)) for one in primals]

    def ours(x, scales_, biases, scale, bias):
        first = tg.quantized_matmul(x, W, scales_, biases)
        return first + tg.quantized_matmul(
            x, w, scales, mode="nvfp4", global_scale=scale, bias=bias
        )

    def theirs(x, scales_, biases, scale, bias):
        return x @ dense(W, scales_, biases) + x @ values.T * (scale / 2688) + bias

    (got,), (expected,) = (mx.jvp(one, primals, tangents)[1] for one in (ours, theirs))
    close(got, expected, 2e-5)


def test_under_compile_on_mlx_s_own_op():
    with tg.use_backend("mlx"):
        product = lambda x: tg.quantized_matmul(x, W, SCALES, BIASES)  # noqa: E731
        for options in ({}, {"shapeless": True}):
            compiled = mx.compile(product, **options)
            for x in (X, X[:2]):
                close(compiled(x), product(x), 0)
        gradient = mx.grad(lambda x: (product(x) ** 2).sum())
        close(mx.compile(gradient)(X), gradient(X), 0)


def test_under_compile_on_kernels(lazy):
    """What is traced is launched with the shapes and dtypes that the call has outside."""
    product = lambda x: tg.quantized_matmul(x, W, SCALES, BIASES)  # noqa: E731
    gradient = mx.grad(lambda x: (product(x) ** 2).sum())
    gradient(X)
    outside = [(name, one["output_shapes"]) for name, one in lazy.launches]
    lazy.launches.clear()
    assert mx.compile(gradient)(X).shape == X.shape
    assert [(name, one["output_shapes"]) for name, one in lazy.launches] == outside


MAPPED = {
    "x": (0, None, None, None, None),
    "x, its last axis": (2, None, None, None, None),
    "the weight": (None, 0, 0, 0, None),
    "scales": (None, None, 0, None, None),
    "x and the weight": (1, 0, 1, 0, None),
    "the bias": (None, None, None, None, 0),
    "x and the bias": (0, None, None, None, 1),
    "everything": (0, 1, 0, 2, 0),
}


@pytest.mark.parametrize("x_shape", [(5, 128), (128,), (2, 5, 128)], ids=str)
@pytest.mark.parametrize("name", MAPPED)
def test_batching_rule(kernels, name, x_shape):
    """The rule, on values: MLX asks for it only while it traces, when there are none."""
    axes = list(MAPPED[name])
    axes[0] = None if axes[0] is None else min(axes[0], len(x_shape))
    bias = mx.random.normal((64,), key=mx.random.key(3))
    single = [mx.random.normal(x_shape, key=mx.random.key(2)), W, SCALES, BIASES, bias]
    several = [
        one if axis is None else mx.moveaxis(mx.stack([one, 2 * one, one]), 0, axis)
        for one, axis in zip(single, axes, strict=True)
    ]
    several[1] = W if axes[1] is None else mx.moveaxis(mx.stack([W, W[::-1], W]), 0, axes[1])
    problem = tg.explain("quantized_matmul", *single[:4], bias=bias).problem
    rule = family_of(problem).rule(problem, backend_named("emulator"))
    (got,) = rule.vmap(several, (), None, axes)
    expected = [
        tg.quantized_matmul(
            *(
                one if axis is None else mx.take(one, i, axis)
                for one, axis in zip(several[:4], axes, strict=False)
            ),
            bias=bias if axes[4] is None else mx.take(several[4], i, axes[4]),
        )
        for i in range(3)
    ]
    close(got, mx.stack(expected))


@pytest.mark.parametrize("mapped", [(True, False), (False, True), (True, True)], ids=str)
def test_batching_rule_of_tensor_scales(kernels, mapped):
    w, scales = mx.quantize(mx.random.normal((64, 128), key=mx.random.key(4)), mode="nvfp4")
    values = mx.dequantize(w, scales, mode="nvfp4", dtype=mx.float32)
    tensor = mx.array([1e3, 2e3])
    problem = tg.explain(
        "quantized_matmul", X, w, scales, mode="nvfp4", global_scale=tensor[0]
    ).problem
    x = mx.stack([X, 3 * X]) if mapped[0] else X
    scale = tensor if mapped[1] else tensor[0]
    axes = [0 if mapped[0] else None, None, None, 0 if mapped[1] else None]
    rule = family_of(problem).rule(problem, backend_named("emulator"))
    (got,) = rule.vmap([x, w, scales, scale], (), None, axes)
    factor = mx.reshape(scale / 2688, (-1, 1, 1))
    close(got, mx.broadcast_to((x @ values.T) * factor, (2, 5, 64)))
