"""Calls of layers that are looked up by the arrays that the layers hold."""

from __future__ import annotations

import gc

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.core import fast_path, held
from mlx_tilegemm.core.held import HeldCalls
from mlx_tilegemm.errors import DTypeError, ProblemError
from mlx_tilegemm.layers.routed_class import routed_class
from mlx_tilegemm.nn import SwitchRoute, switch_linear

X = mx.random.normal((3, 64), key=mx.random.key(0))


class Experts(nn.Module):
    """Quantized experts, as mlx-lm's layer has them."""

    def __init__(self):
        super().__init__()
        weight = mx.random.normal((4, 32, 64), key=mx.random.key(1))
        self.weight, self.scales, self.biases = mx.quantize(weight, bits=4)
        self.group_size, self.bits, self.mode = 64, 4, "affine"


def linear(key=2):
    layer = tg.nn.QuantizedLinear(64, 32, bias=False)
    weight = mx.random.normal((32, 64), key=mx.random.key(key))
    layer.weight, layer.scales, layer.biases = mx.quantize(weight, bits=4)
    return layer


def experts():
    layer = Experts()
    layer.__class__ = routed_class(Experts, SwitchRoute)
    return layer


def product(layer, x):
    weight = mx.dequantize(layer.weight, layer.scales, layer.biases, bits=4)
    return np.array(x.astype(mx.float32)) @ np.array(weight.astype(mx.float32)).T


def close(found, expected):
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(autouse=True, params=["mlx", "emulator"])
def backend(request):
    with tg.use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def no_calls():
    fast_path.forget()


@pytest.fixture
def by_op(monkeypatch):
    """Return how often an op's own text has run for a layer."""
    made = []
    for name in ("_first_linear", "_first_quantized", "_first_experts", "_first_plain_experts"):
        serve = getattr(tg.nn, name)

        def noting(*args, serve=serve):
            made.append(1)
            return serve(*args)

        monkeypatch.setattr(tg.nn, name, noting)
    return made


def test_a_layer_is_asked_once(by_op):
    layer = linear()
    for _ in range(3):
        close(layer(X), product(layer, X))
    assert len(by_op) == 1
    close(layer(X[:2]), product(layer, X[:2]))
    half = X.astype(mx.float16)
    assert layer(half).dtype == mx.result_type(half, layer.scales)
    with tg.use_kernel("any"):
        layer(X)
    assert len(by_op) == 4


def test_experts_are_asked_once(by_op):
    layer, x = experts(), X[:, None, None]
    chosen, others = mx.array([[0, 3], [1, 2], [2, 2]]), mx.array([[1], [0], [3]])
    for indices in (chosen, others, chosen, chosen[::-1]):
        found = layer(x, indices)
        np.testing.assert_array_equal(np.array(found), np.array(switch_linear(layer, x, indices)))
    assert len(by_op) == 2
    layer(x, mx.array([[0], [1], [2]]), sorted_indices=True)
    layer(x, others.astype(mx.uint32))
    assert len(by_op) == 4


@pytest.mark.parametrize("bias", [True, False])
def test_plain_layers_are_asked_once(by_op, backend, bias):
    layer = tg.nn.Linear(64, 32, bias=bias)
    layer.set_dtype(mx.float16)
    for x in (X, X, X[:2], X[:2], X.astype(mx.bfloat16), X):
        close(layer(x), np.array(nn.Linear.__call__(layer, x).astype(mx.float32)))
    # Without another backend nothing need be asked.
    assert len(by_op) == (0 if backend == "mlx" else 3)
    layer.weight = layer.weight.astype(mx.int32)
    close(layer(X), np.array(nn.Linear.__call__(layer, X)))


def test_what_mlx_follows_is_not_kept(backend):
    layer = tg.nn.Linear(64, 32)
    step = nn.value_and_grad(layer, lambda x: mx.sum(layer(x) ** 2))
    for _ in range(2):
        _, gradients = step(X)
    assert gradients["weight"].shape == (32, 64)
    assert not tg.nn._linear._calls
    layer(X)
    assert len(tg.nn._linear._calls) == (backend != "mlx")


def test_plain_experts_are_asked_once(by_op):
    layer, x = experts(), X[:, None, None]
    weight = mx.random.normal((4, 32, 64), key=mx.random.key(1))
    del layer.scales, layer.biases
    layer.weight = weight
    chosen, others = mx.array([[0, 3], [1, 2], [2, 2]]), mx.array([[1], [0], [3]])
    for indices in (chosen, others, chosen, chosen[::-1]):
        found = layer(x, indices)
        np.testing.assert_array_equal(np.array(found), np.array(switch_linear(layer, x, indices)))
    assert len(by_op) == 2
    layer(x, mx.array([[0], [1], [2]]), sorted_indices=True)
    assert len(by_op) == 3
    layer.weight = weight.astype(mx.float16)
    assert layer(x, others).dtype == mx.float32
    assert len(by_op) == 4


def test_layers_are_told_apart():
    one, other = linear(), linear(key=5)
    for layer in (one, other, one, other):
        close(layer(X), product(layer, X))


@pytest.mark.parametrize("name", ["weight", "scales", "biases"])
def test_other_arrays_of_a_layer(name):
    layer, other = linear(), linear(key=5)
    layer(X)
    layer[name] = other[name]
    close(layer(X), product(layer, X))


@pytest.mark.parametrize("kind", [mx.cpu, mx.gpu], ids=["cpu", "gpu"])
@pytest.mark.parametrize("backend", ["mlx"], indirect=True)
def test_a_mistake_is_told_in_our_words(monkeypatch, kind):
    device = mx.Device(kind)
    monkeypatch.setattr(mx, "default_device", lambda: device)
    layer = linear()
    layer(X)
    scales = layer.scales
    layer.scales = scales[:5]
    with pytest.raises(ProblemError, match=r"\[quantized_matmul\] Expected scales"):
        layer(X)
    layer.scales = scales
    close(layer(X), product(layer, X))


def test_an_array_that_was_made_another_in_place(backend):
    layer = linear()
    layer.set_dtype(mx.float16)
    x = X.astype(mx.float16)
    layer(x)
    scales = layer.scales
    scales *= mx.ones(scales.shape)
    assert layer.scales is scales
    assert scales.dtype == mx.float32
    found = layer(x)
    assert found.dtype == mx.float32
    close(found, product(layer, x))


def test_arguments_of_other_kinds():
    layer = linear()
    layer(X)

    class Holder:
        shape, dtype = X.shape, X.dtype

        def __mlx_array__(self):
            return X

    close(layer(Holder()), product(layer, X))
    for other in (np.array(X), tg.ArraySpec(shape=X.shape, dtype=X.dtype)):
        with pytest.raises(DTypeError, match=r"Expected x to be an mlx\.core\.array"):
            layer(other)


def test_calls_end_with_their_arrays():
    layer = linear()
    layer(X)
    assert len(tg.nn._quantized._calls) == 1
    layer.scales = layer.scales + 0
    gc.collect()
    assert not tg.nn._quantized._calls
    layer(X)
    assert len(tg.nn._quantized._calls) == 1
    del layer
    gc.collect()
    assert not tg.nn._quantized._calls
    assert not tg.nn._quantized._refs
    assert not tg.nn._quantized._keys


def test_no_more_are_kept_than_prepared_calls(monkeypatch):
    monkeypatch.setattr(held, "SIZE", 3)
    layer = linear()
    for rows in range(1, 8):
        layer(mx.ones((rows, 64)))
        assert len(tg.nn._quantized._calls) <= 3


def test_gradients_are_those_of_a_call_that_was_not_kept():
    layer = linear()

    def loss(x):
        return mx.sum(layer(x) ** 2)

    layer(X)
    found = mx.grad(loss)(X)
    fast_path.forget()
    np.testing.assert_allclose(np.array(found), np.array(mx.grad(loss)(X)), rtol=1e-5, atol=1e-5)


def test_what_is_no_call_is_not_kept():
    calls = HeldCalls(first=0, count=1)
    calls.keep((id(X),), None, (X,), lambda x: x)
    assert calls.find((id(X),)) is None
