"""Models are routed through the library and come back as they were."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import threading
import types
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import attention_layers
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from attention_layers import (
    ByAlias,
    ByAttribute,
    ByClassMethod,
    ByName,
    ByStaticMethod,
    OwnName,
    OwnParentsName,
)
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from routed_calls import note_attention, note_ops

import mlx_tilegemm as tg
from mlx_tilegemm.errors import DTypeError
from mlx_tilegemm.layers import attention

FAST_ATTENTION = mx.fast.scaled_dot_product_attention
NAMES = [
    (nn.Linear, "__call__"),
    (nn.Embedding, "as_linear"),
    (nn.QuantizedLinear, "__call__"),
    (nn.QuantizedEmbedding, "as_linear"),
    (mx.fast, "scaled_dot_product_attention"),
]


class Inheriting(nn.Linear):
    pass


class Overriding(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = mx.ones((16,))

    def __call__(self, x):
        return mx.fast.rms_norm(x, self.weight, 1e-5)


def helper(q, k, v):
    return inner(q, k, v)


def inner(q, k, v):
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5, mask="causal")


class Attention(nn.Module):
    """Attention that its module reaches by way of functions."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48, bias=False)

    def __call__(self, x):
        q, k, v = (self.heads(one) for one in mx.split(self.qkv(x), 3, -1))
        return helper(q, k, v).transpose(0, 2, 1, 3).reshape(x.shape)

    def heads(self, x):
        return mx.unflatten(x, -1, (2, -1)).transpose(0, 2, 1, 3)


class Model(nn.Module):
    """One layer of every kind that patching tells apart."""

    def __init__(self):
        super().__init__()
        mx.random.seed(5)
        self.embedding = nn.Embedding(32, 16)
        self.layers = [nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16, bias=False), Norm()]
        self.inheriting = Inheriting(16, 16)
        self.overriding = Overriding(16, 16)
        self.ours = tg.nn.Linear(16, 16)
        self.quantized = nn.Linear(32, 16).to_quantized(group_size=32)
        self.convolution = nn.Conv1d(16, 16, 1)
        self.attention = Attention()
        self.heads = nn.MultiHeadAttention(16, 2)
        self.shared = self.layers[0]

    def __call__(self, tokens):
        x = self.embedding(tokens)
        for layer in (*self.layers, self.inheriting, self.overriding, self.ours, self.shared):
            x = x + 0.1 * layer(x)
        x = x + self.quantized(mx.concatenate([x, x], axis=-1))
        x = self.attention(self.convolution(x))
        return self.embedding.as_linear(self.heads(x, x, x))


TOKENS = mx.array([[3, 1, 4, 1, 5]])


@pytest.fixture
def calls(monkeypatch):
    """Return the names of the ops that routes call, as they call them."""
    made = []

    ops = (tg.matmul, tg.addmm, tg.attention_chain, tg.quantized_matmul)
    note_ops(monkeypatch, ops, made.append)
    note_attention(monkeypatch, made.append)
    return made


@contextmanager
def by_looked_up_calls():
    """MLX's own ops, through the ops here: a recording hears of every call."""
    with tg.use_backend("mlx"), tg.record():
        yield


@pytest.fixture(autouse=True)
def names_stay():
    before = [vars(owner)[name] for owner, name in NAMES]
    yield
    assert [vars(owner)[name] for owner, name in NAMES] == before


def classes(model):
    return {path: type(layer) for path, layer in model.named_modules()}


def relative_error(got, expected):
    return float(mx.abs(got - expected).max() / mx.abs(expected).max())


ROUTED = ["addmm"] * 3 + ["matmul"] * 7 + ["attention_chain"] * 2 + ["quantized_matmul"]
UNROUTED = ["addmm"]  # what calls the library by itself


class TestReport:
    def test_says_what_and_why(self):
        report = tg.patch(Model())
        assert {one.path: one.op for one in report.replaced} == {
            "embedding": "matmul",
            "layers.0": "addmm",
            "layers.2": "matmul",
            "inheriting": "addmm",
            "attention": "attention_chain",
            "attention.qkv": "matmul",
            "quantized": "quantized_matmul",
            "heads": "attention_chain",
            "heads.query_proj": "matmul",
            "heads.key_proj": "matmul",
            "heads.value_proj": "matmul",
            "heads.out_proj": "matmul",
            "shared": "addmm",
        }
        assert {one.path: (one.layer, one.reason) for one in report.left_alone} == {
            "layers.3": ("Norm", "no product is found in its code"),
            "overriding": ("Overriding", "its class has a __call__ of its own"),
            "ours": ("Linear", "computes through this library already"),
            "convolution": ("Conv1d", "its products are its own: conv1d"),
        }

    def test_reads_well(self):
        text = str(tg.patch(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4))))
        assert text.splitlines() == [
            "[patch] 2 layers replaced, 1 left alone",
            "     2 Linear -> addmm (layers.0, ...)",
            "     1 LayerNorm left alone: no product is found in its code (layers.2)",
            "  mlx_tilegemm.audit(model, *inputs) tells who serves each product of a call",
        ]

    def test_paths_are_in_order(self):
        model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(11)])
        assert [one.path for one in tg.patch(model).replaced] == [f"layers.{i}" for i in range(11)]

    def test_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            tg.patch(nn.Linear(2, 2)).replaced = ()


class TestPatch:
    def test_results_are_the_same_and_come_from_the_ops(self, kernels, calls):
        model = Model()
        expected = model(TOKENS)
        assert calls == UNROUTED
        calls.clear()
        tg.patch(model)
        assert relative_error(model(TOKENS), expected) < 1e-5
        assert sorted(calls) == sorted([*ROUTED, "addmm"])

    def test_comes_back_exactly(self, calls):
        model = Model()
        before = classes(model)
        arrays = tree_flatten(model.parameters())
        with by_looked_up_calls():
            expected = model(TOKENS)
            tg.patch(model)
            assert classes(model) != before
            tg.unpatch(model)
            assert classes(model) == before
            calls.clear()
            assert mx.array_equal(model(TOKENS), expected)
        assert calls == UNROUTED
        after = tree_flatten(model.parameters())
        assert all(x is y for (_, x), (_, y) in zip(arrays, after, strict=True))

    def test_twice_is_once(self):
        model = Model()
        before = classes(model)
        first = tg.patch(model)
        patched = classes(model)
        assert tg.patch(model) == first
        assert classes(model) == patched
        tg.unpatch(model)
        tg.unpatch(model)
        assert classes(model) == before

    def test_layers_stay_what_and_where_they_are(self):
        model = Model()
        layer = model.layers[0]
        tg.patch(model)
        assert model.layers[0] is layer
        assert isinstance(layer, nn.Linear)
        assert type(layer).__name__ == "Linear"
        assert str(layer) == str(nn.Linear(16, 16))

    def test_a_layer_by_itself(self, calls):
        layer = nn.Linear(4, 4)
        assert [one.path for one in tg.patch(layer).replaced] == [""]
        with by_looked_up_calls():
            layer(mx.zeros((2, 4)))
        assert calls == ["addmm"]

    def test_other_models_are_left_as_they_are(self, calls):
        tg.patch(Model())
        with by_looked_up_calls():
            Model()(TOKENS)
        assert calls == UNROUTED

    def test_copies_of_patched_models_come_back_too(self, calls):
        model = Model()
        before = classes(model)
        tg.patch(model)
        twin = copy.deepcopy(model)
        assert classes(twin) == classes(model)
        tg.unpatch(twin)
        assert classes(twin) == before
        assert classes(model) != before

    def test_quantizing_a_patched_model(self):
        model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
        tg.patch(model)
        nn.quantize(model, group_size=32)
        assert {type(layer) for layer in model.layers} == {nn.QuantizedLinear}

    def test_only_modules(self):
        for function in (tg.patch, tg.unpatch, tg.patched):
            with pytest.raises(DTypeError, match=r"Expected an mlx.nn.Module, got function\."):
                function(relative_error)

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["mlx", "kernels"])
    def test_a_training_step(self, request, backend):
        model = Model()
        model.quantized.freeze()
        loss_and_gradients = nn.value_and_grad(model, lambda m: mx.logsumexp(m(TOKENS)))
        loss, gradients = loss_and_gradients(model)
        tg.patch(model)
        if backend == "kernels":
            request.getfixturevalue(backend)
        with tg.use_backend("mlx") if backend == "mlx" else nullcontext():
            got, got_gradients = loss_and_gradients(model)
        assert relative_error(got, loss) < 1e-5
        pairs = zip(tree_flatten(gradients), tree_flatten(got_gradients), strict=True)
        for (name, expected), (got_name, gradient) in pairs:
            assert name == got_name
            assert mx.allclose(gradient, expected, rtol=1e-4, atol=1e-6), name

    def test_compiled_by_mlx(self, calls):
        # Without arithmetic that MLX would fuse, since its CPU compiles what it fuses for seconds.
        model = nn.Sequential(nn.Linear(16, 16), Attention(), nn.Linear(16, 4, bias=False))
        x = mx.random.normal((1, 5, 16))
        with by_looked_up_calls():
            expected = model(x)
            tg.patch(model)
            assert relative_error(mx.compile(model)(x), expected) < 1e-5
        assert calls == ["addmm", "matmul", "attention_chain", "matmul"]

    @pytest.mark.slow
    @given(
        sizes=st.lists(st.sampled_from([1, 8, 17]), min_size=2, max_size=4),
        biases=st.lists(st.booleans(), min_size=4, max_size=4),
        dtypes=st.lists(
            st.sampled_from([mx.float32, mx.float16, mx.bfloat16]), min_size=4, max_size=4
        ),
        rows=st.integers(1, 9),
    )
    def test_any_mixed_mlp(self, kernels, sizes, biases, dtypes, rows):
        pairs = pairwise(sizes)
        layers = [nn.Linear(k, n, bias=bias) for (k, n), bias in zip(pairs, biases, strict=False)]
        for layer, dtype in zip(layers, dtypes, strict=False):
            layer.weight = layer.weight.astype(dtype)
        model = nn.Sequential(*layers)
        x = mx.random.normal((rows, sizes[0]))
        expected = model(x)
        with tg.patched(model):
            got = model(x)
        assert got.dtype == expected.dtype == mx.float32
        # Magnitudes bound the error of sums that cancel.
        for layer in layers:
            layer.apply(mx.abs)
        assert mx.all(mx.abs(got - expected) <= 1e-5 * model(mx.abs(x)))


class TestPatchedBlocks:
    def test_a_model(self, calls):
        model = Model()
        before = classes(model)
        with by_looked_up_calls(), tg.patched(model) as report:
            model(TOKENS)
        assert report == tg.patch(Model())
        assert len(calls) == len(ROUTED) + 1
        assert classes(model) == before

    def test_what_was_patched_before_stays_patched(self):
        model = Model()
        tg.patch(model.attention)
        before = classes(model)
        with tg.patched(model):
            assert classes(model) != before
        assert classes(model) == before

    def test_everything(self, calls):
        model = Model()
        before = classes(model)
        with by_looked_up_calls():
            expected = model(TOKENS)
            calls.clear()
            with tg.patched() as report:
                got = model(TOKENS)
        assert classes(model) == before
        assert relative_error(got, expected) < 1e-5
        # Within the overriding layer's call is one of nn.Linear's.
        assert sorted(calls) == sorted([*ROUTED, "addmm", "addmm"])
        assert [one.path for one in report.replaced][:9] == [
            "mlx.nn.layers.linear.Linear.__call__",
            "mlx.nn.layers.embedding.Embedding.as_linear",
            "mlx.nn.layers.distributed.AllToShardedLinear.__call__",
            "mlx.nn.layers.distributed.ShardedToAllLinear.__call__",
            "mlx.nn.layers.quantized.QuantizedLinear.__call__",
            "mlx.nn.layers.distributed.QuantizedAllToShardedLinear.__call__",
            "mlx.nn.layers.distributed.QuantizedShardedToAllLinear.__call__",
            "mlx.nn.layers.quantized.QuantizedEmbedding.as_linear",
            "mlx.core.fast.scaled_dot_product_attention",
        ]
        assert "attention_layers.aliased" in [one.path for one in report.replaced]

    def test_ends_even_by_an_error(self):
        model = Model()
        before = classes(model)
        with pytest.raises(ZeroDivisionError), tg.patched(model), tg.patched():
            raise ZeroDivisionError
        assert classes(model) == before

    def test_blocks_nest(self, calls):
        layer, x = nn.Linear(4, 4), mx.zeros((2, 4))
        with by_looked_up_calls(), tg.patched():
            with tg.patched():
                layer(x)
            layer(x)
        layer(x)
        assert calls == ["addmm"] * 2

    def test_a_block_is_of_its_thread(self, calls):
        layer, seen = nn.Linear(4, 4), []
        mx.eval(layer.parameters())

        def use():
            seen.append(layer(mx.zeros((2, 4))).shape)

        with tg.patched():
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        assert seen == [(2, 4)]
        assert not calls

    def test_a_function_put_in_place_meanwhile_stays(self, monkeypatch):
        def theirs(*args, **kwargs):
            return FAST_ATTENTION(*args, **kwargs)

        with tg.patched():
            mx.fast.scaled_dot_product_attention = theirs
        try:
            assert mx.fast.scaled_dot_product_attention is theirs
            with tg.patched():
                assert mx.fast.scaled_dot_product_attention is not theirs
            assert mx.fast.scaled_dot_product_attention is theirs
        finally:
            mx.fast.scaled_dot_product_attention = FAST_ATTENTION


def problems(function, *args):
    """Return how many problems a call asks the library for."""
    with tg.use_backend("mlx"), tg.record() as seen:
        mx.eval(function(*args))
    return len(seen.problems)


Q = mx.random.normal((1, 2, 5, 8), key=mx.random.key(3))


class Calling(nn.Module):
    """A model that calls another method of its layer."""

    def __init__(self):
        super().__init__()
        self.inner = Other()

    def __call__(self, q):
        return self.inner.attend(q)


class Other(nn.Module):
    def attend(self, q):
        return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def in_steps(self, q):
        yield mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)
        yield mx.fast.scaled_dot_product_attention(q, q, q, scale=0.25)


class Fixed(nn.Module):
    def __call__(self, q):
        return FIXED[0](q, q, q, scale=0.5)


FIXED = (FAST_ATTENTION,)


class TestReached:
    """What the report says is routed is, however the code reaches the function."""

    @pytest.mark.parametrize("kind", attention_layers.LAYERS)
    def test_and_routed(self, kind):
        layer = kind()
        report = tg.patch(layer)
        assert [one.op for one in report.replaced] == ["attention_chain"]
        assert not report.left_alone
        assert problems(layer, Q) == 1
        tg.unpatch(layer)
        # What MLX has compiled keeps what it has traced.
        if "Compiled" not in kind.__name__ and "Shapeless" not in kind.__name__:
            assert problems(layer, Q) == 0
        assert problems(kind(), Q) == 0

    def test_not_by_another_method_of_an_object(self):
        layer = attention_layers.CallsNothingThatAttends()
        report = tg.patch(layer)
        assert not report.replaced
        assert not report.left_alone

    def test_by_another_method(self):
        model = Calling()
        assert [one.path for one in tg.patch(model).replaced] == ["inner"]
        assert problems(model, Q) == 1

    def test_by_a_generator_only_while_it_runs(self):
        layer = Other()
        tg.patch(layer)
        with tg.use_backend("mlx"), tg.record() as seen:
            steps = layer.in_steps(Q)
            next(steps)
            assert mx.fast.scaled_dot_product_attention is FAST_ATTENTION
            next(steps)
        assert len(seen.problems) == 1

    @pytest.mark.parametrize("kind", [ByStaticMethod, ByClassMethod])
    def test_by_a_method_called_from_outside(self, kind):
        layer = kind()
        tg.patch(layer)
        assert problems(layer.attend, Q) == 1

    @pytest.mark.parametrize("kind", [OwnName, OwnParentsName])
    def test_a_method_of_that_name_is_not_it(self, kind):
        report = tg.patch(kind())
        assert not report.replaced
        assert [one.reason for one in report.left_alone] == [
            "its attention is spelled out, with @, softmax"
        ]

    def test_where_nothing_can_be_put_is_reported(self):
        report = tg.patch(Fixed())
        assert not report.replaced
        assert [one.reason for one in report.left_alone] == [
            "it keeps MLX's attention function where no other can be put"
        ]

    def test_by_names_everywhere(self):
        layer = ByAlias()
        with tg.patched():
            assert problems(layer, Q) == 1
        assert problems(layer, Q) == 0

    def test_of_modules_imported_in_a_block_come_back(self, monkeypatch):
        with tg.patched():
            late = types.ModuleType("late_module")
            exec("from mlx.core.fast import scaled_dot_product_attention as attend", vars(late))
            monkeypatch.setitem(sys.modules, "late_module", late)
            assert late.attend is not FAST_ATTENTION
        assert late.attend is FAST_ATTENTION

    def test_attributes_can_be_set_while_patched(self):
        layer = ByAttribute()
        tg.patch(layer)
        layer.attend = lambda q, *_, scale: scale * q
        assert mx.array_equal(layer(Q), 0.5 * Q)
        tg.unpatch(layer)
        assert mx.array_equal(layer(Q), 0.5 * Q)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(8, 16)

    def __call__(self, tokens):
        return self.embedding(tokens) @ self.embedding.weight.T


class LooksUp(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(8, 16)
        self.head = nn.Linear(16, 8)

    def __call__(self, tokens):
        return self.head(self.embedding(tokens))


class ReadsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def fuse(self):
        inner = self.inner
        return inner

    def __call__(self, x):
        if "bias" in self.inner and isinstance(self.inner, nn.Linear):
            x = x + self.inner.bias
        return x @ self.inner["weight"].T


class ReadsWeightOfVariable(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def __call__(self, x):
        layer = self.inner
        return x @ layer.weight.T


class CallsVariable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def __call__(self, x):
        layer, kept = self.first, x
        x = layer(x)
        layer = self.second
        other = self.second
        return layer(kept) + other(x)


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)

    def __call__(self, x):
        return mx.argmax(mx.softmax(self.gate(x), axis=-1), axis=-1)


@dataclass
class Settings:
    tied: bool = False


class MaybeTied(nn.Module):
    """A model whose head is its embedding or not, asked for in every way that models do."""

    def __init__(self, tied):
        super().__init__()
        self.settings = Settings(tied)
        self.tied = tied
        self.embedding = nn.Embedding(8, 16)
        self.positions = nn.Embedding(8, 16)
        self.others = [nn.Embedding(8, 16)]
        self.head = None if tied else nn.Linear(16, 8)
        if not tied:
            self.extra = nn.Linear(16, 8)

    def hidden(self, tokens):
        return self.embedding(tokens) + self.positions(tokens) + self.others[0](tokens)


class BySettings(MaybeTied):
    def __call__(self, tokens):
        if self.settings.tied:
            return self.embedding.as_linear(self.hidden(tokens))
        return self.head(self.hidden(tokens))


class ByFlag(MaybeTied):
    def __call__(self, tokens):
        x = self.hidden(tokens)
        if not self.tied:
            x = 2.0 * x
            x = self.head(x)
        else:
            x = self.embedding.as_linear(x)
        return x


class ByExpression(MaybeTied):
    def __call__(self, tokens):
        head = self.embedding.as_linear if self.tied else self.head
        return head(self.hidden(tokens))


class ByContent(MaybeTied):
    def __call__(self, tokens):
        if "extra" not in self:
            return self.embedding.as_linear(self.hidden(tokens))
        return self.head(self.hidden(tokens))


class ByAbsence(MaybeTied):
    def __call__(self, tokens):
        if self.head is not None:
            return self.head(self.hidden(tokens))
        return self.embedding.as_linear(self.hidden(tokens))


class ByBoth(MaybeTied):
    def __call__(self, tokens):
        x = self.hidden(tokens)
        if x.size and self.settings.tied:
            x = self.embedding.as_linear(x)
        elif self.head is not None:
            x = self.head(x)
        return x


MAYBE_TIED = [BySettings, ByFlag, ByExpression, ByContent, ByAbsence, ByBoth]


class Switching(nn.Module):
    """A model that changes how it runs while it runs."""

    def __init__(self):
        super().__init__()
        self.warm = False
        self.embedding = nn.Embedding(8, 16)

    def __call__(self, tokens):
        x = self.embedding(tokens)
        if self.warm:
            return self.embedding.as_linear(x)
        self.warm = True
        return x


class Alternatives(nn.Module):
    """A layer that could run any of its branches."""

    def __init__(self):
        super().__init__()
        self.first, self.second = True, False
        self.embedding = nn.Embedding(8, 16)

    def __call__(self, x):
        if x.size == 3 or self.second:
            x = self.embedding.as_linear(x)
        return x


class ByItsClass(nn.Module):
    """A model that calls a method of its layer's former class."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def __call__(self, x):
        return nn.Linear.__call__(self.inner, x)


class MakesLinear(nn.Module):
    def __call__(self, x):
        return nn.Linear(8, 8)(x)


class AsksForAClass(nn.Module):
    def __call__(self, x):
        return mx.zeros_like(x) if isinstance(x, attention_layers.Attending) else x


class LooksUpModule(nn.Module):
    def __call__(self, x):
        return importlib.import_module("mlx.core").matmul(x, x)


class TestNotCalled:
    """What is not routed is listed, with a true reason."""

    def test_a_layer_called_by_its_class(self):
        model = ByItsClass()
        report = tg.patch(model)
        assert not report.replaced
        assert {one.path: one.reason for one in report.left_alone} == {
            "": "its products are its own: addmm, @",
            "inner": "the code around it calls a class's __call__ on it",
        }
        assert problems(model, mx.ones((3, 8))) == 0

    @pytest.mark.parametrize(
        ("kind", "reasons"),
        [
            (MakesLinear, ["its products are its own: addmm, @"]),
            (LooksUpModule, ["its products are its own: matmul"]),
            (AsksForAClass, []),
        ],
    )
    def test_what_a_call_makes_and_looks_up(self, kind, reasons):
        report = tg.patch(kind())
        assert not report.replaced
        assert [one.reason for one in report.left_alone] == reasons

    def test_a_tied_embedding_multiplied_outside(self):
        report = tg.patch(Tied())
        assert not report.replaced
        assert {one.path: one.reason for one in report.left_alone} == {
            "": "its products are its own: @",
            "embedding": "the code around it reads its weight and calls no as_linear",
        }

    def test_an_embedding_that_only_looks_up(self):
        report = tg.patch(LooksUp())
        assert [one.path for one in report.replaced] == ["head"]
        assert {one.path: one.reason for one in report.left_alone} == {
            "embedding": "nothing calls its as_linear: it only looks up rows"
        }

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("kind", MAYBE_TIED)
    def test_branches_that_the_model_does_not_take(self, kind, tied):
        model = kind(tied)
        report = tg.patch(model)
        routed = {one.path for one in report.replaced} - {"extra"}
        assert routed == {"embedding" if tied else "head"}
        with tg.use_backend("mlx"), tg.record() as seen:
            model(mx.array([1, 2]))
        assert [one.c is None for one in seen.problems] == [tied]

    @pytest.mark.parametrize("model", [Switching(), Alternatives()], ids=str)
    def test_branches_that_a_model_may_take(self, model):
        assert [one.path for one in tg.patch(model).replaced] == ["embedding"]

    def test_a_layer_whose_weight_is_read(self):
        model = nn.Sequential(ReadsWeight())
        report = tg.patch(model)
        assert not report.replaced
        assert {one.path: one.reason for one in report.left_alone} == {
            "layers.0": "its products are its own: @",
            "layers.0.inner": "the code around it reads its weight and does not call it",
        }

    def test_a_layer_whose_weight_is_read_through_a_variable(self):
        report = tg.patch(nn.Sequential(ReadsWeightOfVariable()))
        assert not report.replaced
        assert [one.path for one in report.left_alone] == ["layers.0", "layers.0.inner"]

    def test_layers_called_through_variables(self):
        report = tg.patch(nn.Sequential(CallsVariable()))
        assert [one.path for one in report.replaced] == ["layers.0.first", "layers.0.second"]

    def test_a_router_spells_no_attention(self):
        report = tg.patch(Router())
        assert [one.path for one in report.replaced] == ["gate"]
        assert not report.left_alone

    @pytest.mark.parametrize(
        ("layer", "reason"),
        [
            (nn.LSTM(4, 4), "its products are its own: addmm"),
            (nn.LSTM(4, 4, bias=False), "its products are its own: @, addmm"),
            (nn.Bilinear(4, 4, 4), "its products are its own: @"),
            (nn.RMSNorm(4), "no product is found in its code"),
            (nn.ConvTranspose1d(4, 4, 1), "its products are its own: conv_transpose1d"),
        ],
    )
    def test_layers_of_mlx(self, layer, reason):
        assert [one.reason for one in tg.patch(layer).left_alone] == [reason]


class TestPickle:
    def test_of_a_patched_model(self):
        model = nn.Sequential(
            nn.Linear(4, 4), nn.MultiHeadAttention(4, 2), ByName(), Inheriting(4, 4)
        )
        tg.patch(model)
        twin = pickle.loads(pickle.dumps(model))
        assert classes(twin) == classes(model)
        x = mx.random.normal((1, 3, 4))
        with tg.use_backend("mlx"), tg.record() as seen:
            assert mx.array_equal(twin.layers[0](x), model.layers[0](x))
            assert mx.array_equal(twin.layers[1](x, x, x), model.layers[1](x, x, x))
        assert seen.problems
        tg.unpatch(twin)
        assert {type(layer) for layer in twin.layers} == {
            nn.Linear,
            nn.MultiHeadAttention,
            ByName,
            Inheriting,
        }

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_by_every_protocol_that_takes_layers(self, protocol):
        layer = nn.Linear(4, 4)
        tg.patch(layer)
        assert type(pickle.loads(pickle.dumps(layer, protocol))) is type(layer)

    def test_of_classes_with_a_metaclass(self):
        layer = Registered(4, 4)
        tg.patch(layer)
        assert type(layer) is not Registered
        assert type(pickle.loads(pickle.dumps(layer))) is type(layer)


class Registry(type):
    pass


class Registered(nn.Linear, metaclass=Registry):
    pass


class TestAttentionCalls:
    @pytest.mark.parametrize("scale", [mx.array(0.3), np.float32(0.3), np.float64(0.3), 1, True])
    def test_with_all_scales_that_mlx_takes(self, calls, scale):
        q, k, v = operands()
        expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
        with tg.use_backend("mlx"), tg.patched():
            got = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
        assert relative_error(got, expected) < 1e-5
        assert calls == ["attention_chain"]

    @pytest.mark.parametrize("dtype", [mx.int32, mx.uint8, mx.int64])
    def test_with_integer_masks(self, calls, dtype):
        q, k, v = operands()
        mask = mx.random.randint(0, 3, (5, 6), key=mx.random.key(1)).astype(dtype)
        expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
        with tg.use_backend("mlx"), tg.patched():
            got = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
        assert relative_error(got, expected) < 1e-5
        assert calls == ["attention_chain"]

    def test_with_heads_of_size_0_stay_with_mlx(self, calls):
        q, v = mx.zeros((1, 2, 3, 0)), mx.random.normal((1, 2, 3, 4))
        expected = mx.fast.scaled_dot_product_attention(q, q, v, scale=1.0)
        with tg.patched():
            assert mx.array_equal(
                mx.fast.scaled_dot_product_attention(q, q, v, scale=1.0), expected
            )
        assert not calls

    @pytest.mark.parametrize("options", [{"scale": "1"}, {"scale": 1.0, "mask": "other"}, {}])
    def test_that_mlx_refuses_are_refused_by_mlx(self, options):
        q, k, v = operands()
        with pytest.raises((TypeError, ValueError)) as expected:
            mx.fast.scaled_dot_product_attention(q, k, v, **options)
        with tg.patched(), pytest.raises(expected.type) as got:
            mx.fast.scaled_dot_product_attention(q, k, v, **options)
        assert str(got.value) == str(expected.value)

    @pytest.mark.parametrize(
        "mask", [None, "causal", mx.zeros((5, 6)), mx.tri(5, 6, 1).astype(mx.bool_)]
    )
    def test_are_served(self, kernels, calls, mask):
        q, k, v = operands()
        expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
        with tg.patched():
            got = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
        assert relative_error(got, expected) < 1e-5
        assert calls == ["attention_chain"]

    def test_sinks_are_passed_on(self, kernels, calls):
        q, k, v = operands()
        options = {"scale": 0.3, "sinks": mx.array([0.5, -0.5])}
        expected = mx.fast.scaled_dot_product_attention(q, k, v, **options)
        with tg.patched():
            got = mx.fast.scaled_dot_product_attention(q, k, v, **options)
        assert relative_error(got, expected) < 1e-5
        assert calls == ["attention_chain"]

    def test_what_is_no_float_stays_with_mlx(self, calls):
        q, k, v = (x.astype(mx.complex64) for x in operands())
        with tg.patched(), pytest.raises(ValueError, match="scaled_dot_product_attention"):
            mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3)
        assert not calls

    def test_streams_are_passed_on(self, kernels, calls):
        with tg.patched():
            mx.fast.scaled_dot_product_attention(*operands(), scale=0.3, stream=mx.cpu)
            with pytest.raises(DTypeError, match="Expected stream"):
                mx.fast.scaled_dot_product_attention(*operands(), scale=0.3, stream="cpu")
        assert calls == ["attention_chain"] * 2

    def test_an_op_that_uses_what_it_stands_in_for(self, monkeypatch):
        def chain(q, k, v, *, scale):
            return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)

        monkeypatch.setattr(attention, "_attention", chain)
        q, k, v = operands()
        with tg.patched():
            got = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3)
        assert mx.array_equal(got, FAST_ATTENTION(q, k, v, scale=0.3))


def operands():
    mx.random.seed(2)
    return tuple(mx.random.normal((1, 2, length, 8)) for length in (5, 6, 6))


def test_a_mask_of_numpy_is_refused_as_mlx_refuses_it():
    class Masked(nn.Module):
        def __call__(self, x, mask):
            return mx.fast.scaled_dot_product_attention(x, x, x, scale=1.0, mask=mask)

    layer = Masked()
    tg.patch(layer)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        layer(mx.zeros((1, 2, 3, 16)), np.zeros((3, 3), np.float32))
