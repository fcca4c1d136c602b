"""The layers are their namesakes, computed by this library."""

from __future__ import annotations

from itertools import product
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from routed_calls import note_ops

import mlx_tilegemm as tg
from mlx_tilegemm import formats
from mlx_tilegemm.core import mlx_ops
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.dtypes import FLOATS, from_mlx
from mlx_tilegemm.errors import ProblemError
from mlx_tilegemm.families.experts import ops as expert_ops
from mlx_tilegemm.families.quantized import fallback as quantized_fallback
from mlx_tilegemm.nn import switch_linear

DTYPES = [dtype.mlx for dtype in FLOATS]
PAIRS = [(layer, tg.nn.__dict__[layer.__name__]) for layer in (nn.Linear, nn.Embedding)]


@pytest.fixture
def calls(monkeypatch):
    """Return the names of the ops that layers call, as they call them."""
    made = []

    ops = (tg.matmul, tg.addmm, tg.attention_chain)
    note_ops(monkeypatch, ops, made.append)
    return made


def parameters(module):
    return {name: value.tolist() for name, value in tree_flatten(module.parameters())}


def made(layer, *args, **kwargs):
    mx.random.seed(3)
    return layer(*args, **kwargs)


class TestNamesakes:
    @pytest.mark.parametrize(("theirs", "ours"), PAIRS)
    def test_parameters_and_their_random_numbers_are_the_same(self, theirs, ours):
        assert parameters(made(ours, 6, 4)) == parameters(made(theirs, 6, 4))
        assert isinstance(ours(6, 4), theirs)

    def test_attention_has_the_same_parameters(self):
        ours, theirs = (
            made(kind, 8, 2, 5, 6, 7, 4, 3, bias=True)
            for kind in (tg.nn.MultiHeadAttention, nn.MultiHeadAttention)
        )
        assert parameters(ours) == parameters(theirs)
        assert type(ours.out_proj) is tg.nn.Linear

    def test_checkpoints_load_either_way(self, tmp_path):
        ours, theirs = tg.nn.MultiHeadAttention(8, 2), nn.MultiHeadAttention(8, 2)
        path = str(tmp_path / "weights.safetensors")
        theirs.save_weights(path)
        ours.load_weights(path)
        assert parameters(ours) == parameters(theirs)
        made(tg.nn.MultiHeadAttention, 8, 2).save_weights(path)
        theirs.load_weights(path)
        assert parameters(ours) != parameters(theirs)

    def test_quantizing_gives_mlx_layers(self):
        model = nn.Sequential(tg.nn.Linear(64, 32), tg.nn.Embedding(32, 64))
        nn.quantize(model)
        assert [type(layer) for layer in model.layers] == [
            nn.QuantizedLinear,
            nn.QuantizedEmbedding,
        ]

    def test_freezing_and_printing_work(self):
        layer = tg.nn.Linear(3, 2)
        assert str(layer) == str(nn.Linear(3, 2))
        assert not layer.freeze().trainable_parameters()


class TestLinear:
    @pytest.mark.slow
    @given(
        data=st.data(),
        shape=st.lists(st.integers(1, 4), max_size=2),
        k=st.integers(1, 40),
        n=st.integers(1, 40),
        bias=st.booleans(),
    )
    def test_every_mix_of_dtypes(self, kernels, data, shape, k, n, bias):
        x_dtype, w_dtype = (data.draw(st.sampled_from(DTYPES)) for _ in range(2))
        layer = made(tg.nn.Linear, k, n, bias=bias)
        layer.weight = layer.weight.astype(w_dtype)
        x = mx.random.normal((*shape, k)).astype(x_dtype)
        got = layer(x)
        assert got.dtype == layer_of_mlx(layer)(x).dtype
        value, size = oracle.gemm(x, layer.weight, transpose_b=True, c=layer.get("bias"))
        bound = oracle.gemm_bound(value, size, k, from_mlx(got.dtype))
        oracle.assert_close(got, value, bound)

    def test_the_ops_compute(self, kernels, calls):
        x = mx.zeros((5, 16))
        tg.nn.Linear(16, 8)(x)
        tg.nn.Linear(16, 8, bias=False)(x)
        tg.nn.Embedding(8, 16).as_linear(x)
        assert calls == ["addmm", "matmul", "matmul"]

    @pytest.mark.parametrize("bias", [True, False])
    def test_what_the_ops_refuse_is_promoted_as_mlx_promotes_it(self, calls, bias):
        layer = made(tg.nn.Linear, 4, 3, bias=bias)
        x = mx.arange(8).reshape(2, 4)
        assert mx.array_equal(layer(x), layer_of_mlx(layer)(x))
        assert not calls

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_gradients(self, kernels, dtype):
        layer = made(tg.nn.Linear, 6, 3)
        layer.weight = layer.weight.astype(dtype)
        x = mx.random.normal((4, 6))
        got, gradients = gradient(layer, x)
        expected, expected_gradients = gradient(layer_of_mlx(layer), x)
        assert mx.allclose(got, expected)
        for name, unit in (("weight", from_mlx(dtype).unit_roundoff), ("bias", 2.0**-24)):
            assert gradients[name].dtype == layer[name].dtype
            # Both may round a gradient to its dtype, to either side.
            expected_gradient = expected_gradients[name].astype(mx.float32)
            assert mx.allclose(gradients[name], expected_gradient, rtol=1e-5 + 2 * unit)


def layer_of_mlx(layer):
    twin = nn.Linear(1, 1, bias="bias" in layer)
    twin.update(layer.parameters())
    return twin


def gradient(layer, x):
    return nn.value_and_grad(layer, lambda model: (model(x).astype(mx.float32) ** 2).mean())(layer)


MASKS = {
    "none": None,
    "causal": "causal",
    "additive": nn.MultiHeadAttention.create_additive_causal_mask(7),
    "bool": mx.random.bernoulli(0.7, (2, 1, 7, 7), key=mx.random.key(1))
    | mx.eye(7).astype(mx.bool_),
}


class TestMultiHeadAttention:
    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize("bias", [True, False])
    def test_agrees_with_the_namesake(self, kernels, calls, mask, bias):
        ours, theirs = attention_pair(24, 3, bias=bias)
        x = mx.random.normal((2, 7, 24))
        got, expected = ours(x, x, x, MASKS[mask]), theirs(x, x, x, MASKS[mask])
        assert relative_error(got, expected) < 1e-5
        assert calls.count("attention_chain") == 1
        assert len(calls) == 5

    @pytest.mark.slow
    def test_every_size_may_differ(self, kernels):
        ours, theirs = attention_pair(16, 2, 5, 6, 7, 12, 9)
        operands = [mx.random.normal((2, *shape)) for shape in ((3, 5), (8, 6), (8, 7))]
        got = ours(*operands)
        assert got.shape == (2, 3, 9)
        assert relative_error(got, theirs(*operands)) < 1e-5

    @pytest.mark.parametrize(
        "dtype", [mx.float16, pytest.param(mx.bfloat16, marks=pytest.mark.slow)]
    )
    def test_mixed_dtypes_are_those_of_the_upcast_namesake(self, kernels, dtype):
        ours, theirs = attention_pair(24, 3)
        for name in ("key_proj", "value_proj"):
            getattr(ours, name).set_dtype(dtype)
        theirs.update(ours.parameters())
        theirs.set_dtype(mx.float32)
        x = mx.random.normal((2, 7, 24)).astype(dtype)
        got = ours(x, x, x, "causal")
        assert got.dtype == mx.float32
        # The keys and values are rounded to the dtype once, as projections of it are.
        upcast = x.astype(mx.float32)
        unit = from_mlx(dtype).unit_roundoff
        assert relative_error(got, theirs(upcast, upcast, upcast, "causal")) < 4 * unit

    @pytest.mark.slow
    def test_a_query_without_keys_gets_zeros(self, kernels):
        ours, _ = attention_pair(8, 2)
        x = mx.random.normal((1, 3, 8))
        mask = mx.array([[True, True, True], [False, False, False], [True, False, False]])
        got = np.array(ours(x, x, x, mask))
        assert not got[0, 1].any()
        assert got[0, 0].any()


def attention_pair(*args, **kwargs):
    kinds = (tg.nn.MultiHeadAttention, nn.MultiHeadAttention)
    ours, theirs = (made(kind, *args, **kwargs) for kind in kinds)
    return ours, theirs


def relative_error(got, expected):
    return float(mx.abs(got - expected).max() / mx.abs(expected).max())


class TestQuantized:
    @pytest.mark.parametrize("mode", ["affine", "mxfp4", "mxfp8", "nvfp4"])
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("backend", ["emulator", "mlx"])
    def test_linear_is_its_namesake(self, mode, bias, backend):
        theirs = nn.QuantizedLinear.from_linear(nn.Linear(64, 24, bias=bias), mode=mode)
        ours = tg.nn.QuantizedLinear(64, 24, bias=bias, mode=mode)
        ours.load_weights([*tree_flatten(theirs.parameters())])
        x = mx.random.normal((2, 5, 64), key=mx.random.key(1))
        with tg.use_backend(backend), tg.use_kernel("any"):
            got = ours(x)
        expected = theirs(x)
        assert got.dtype == expected.dtype
        assert mx.allclose(got, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("x", DTYPES)
    @pytest.mark.parametrize("weight", DTYPES)
    @pytest.mark.parametrize("bias", [*DTYPES, mx.int32, None])
    def test_result_dtypes_are_its_namesake_s(self, x, weight, bias):
        layer = nn.Linear(64, 24, bias=False).to_quantized()
        layer.set_dtype(weight)
        if bias is not None:
            layer.bias = mx.ones((24,)).astype(bias)
        inputs = mx.ones((3, 64), x)
        with tg.use_backend("mlx"):
            expected = layer(inputs)
            got = tg.nn.QuantizedLinearRoute.__call__(layer, inputs)
        assert got.dtype == expected.dtype
        assert mx.allclose(got.astype(mx.float32), expected.astype(mx.float32), rtol=0.05, atol=0.2)

    def test_embedding_as_linear(self):
        layer = tg.nn.QuantizedEmbedding(40, 64, bits=8)
        x = mx.random.normal((3, 64), key=mx.random.key(1))
        with tg.use_backend("emulator"), tg.use_kernel("any"):
            got = layer.as_linear(x)
        assert mx.allclose(got, nn.QuantizedEmbedding.as_linear(layer, x), rtol=1e-5, atol=1e-5)

    def test_patching_a_model_of_tied_quantized_embeddings(self):
        model = Tied()
        nn.quantize(model, group_size=32)
        tokens = mx.array([[1, 2, 3]])
        expected = model(tokens)
        report = tg.patch(model)
        assert {one.path: (one.op, one.method) for one in report.replaced} == {
            "embedding": ("quantized_matmul", "as_linear"),
            "linear": ("quantized_matmul", "__call__"),
        }
        with tg.use_backend("emulator"), tg.use_kernel("any"):
            got = model(tokens)
        assert mx.allclose(got, expected, rtol=1e-4, atol=1e-5)
        found = tg.audit(model, tokens)
        assert [(row.primitive, row.path, row.ours) for row in found.rows] == [
            ("quantized_matmul", "linear", True),
            ("quantized_matmul", "embedding", True),
        ]
        tg.unpatch(model)
        assert type(model.linear) is nn.QuantizedLinear


class TestFP8Linear:
    @pytest.mark.parametrize("form", ["e4m3", "e5m2"])
    @pytest.mark.parametrize("bias", [True, False])
    def test_of_a_linear_layer(self, form, bias):
        dense = nn.Linear(96, 32, bias)
        dense.weight[3] = 0
        layer = tg.nn.FP8Linear.from_linear(dense, form)
        assert layer.weight.dtype == mx.uint8
        values = formats.decode(layer.weight, form) * layer.scales
        # Half a step of the largest binade, of 3 or 2 bits.
        share = 2.0 ** (-4 if form == "e4m3" else -3)
        limits = share * mx.max(mx.abs(dense.weight), axis=1, keepdims=True)
        assert bool(mx.all(mx.abs(values - dense.weight) <= limits))
        assert mx.array_equal(values[3], mx.zeros((96,)))
        x = mx.random.normal((2, 5, 96)).astype(mx.bfloat16)
        with tg.use_backend("mlx"):
            got = layer(x)
        expected = x.astype(mx.float32) @ values.T + layer.get("bias", mx.zeros((32,)))
        assert got.dtype == (mx.float32 if bias else mx.bfloat16)
        error = mx.abs(got - expected).max() / mx.abs(expected).max()
        assert float(error) < (1e-6 if bias else 5e-3)

    def test_gradients_pass_through_what_is_frozen(self):
        model = nn.Sequential(nn.Linear(8, 64), tg.nn.FP8Linear.from_linear(nn.Linear(64, 16)))
        names = {name for name, _ in tree_flatten(model.trainable_parameters())}
        assert names == {"layers.0.weight", "layers.0.bias"}
        values = formats.decode(model.layers[1].weight, "e4m3") * model.layers[1].scales
        x = mx.random.normal((5, 8))
        with tg.use_backend("mlx"):
            _, grads = nn.value_and_grad(model, lambda x: (model(x) ** 2).sum())(x)
            hidden = model.layers[0](x)
            got, bias = grads["layers"][0]["weight"], model.layers[1].bias
        expected = (2 * (hidden @ values.T + bias) @ values).T @ x
        assert mx.allclose(got, expected, rtol=1e-4, atol=1e-4)

    def test_an_unknown_format_is_refused(self):
        with pytest.raises(tg.errors.DTypeError, match=r"a format of e4m3, e5m2, int8, got 'e3m4'"):
            tg.nn.FP8Linear(8, 8, format="e3m4")

    def test_patch_and_audit_know_it(self):
        model = nn.Sequential(tg.nn.FP8Linear.from_linear(nn.Linear(64, 32)), nn.Linear(32, 8))
        (left,) = tg.patch(model).left_alone
        assert (left.layer, left.reason) == ("FP8Linear", "computes through this library already")
        first, _ = tg.audit(model, mx.ones((5, 64)), chip="m4-max").rows
        assert (first.primitive, first.path, first.ours) == ("fp8_scaled_matmul", "layers.0", True)
        assert first.served_by.startswith("scaled_gemv/")


def test_a_quantized_layer_may_have_a_scale_of_its_weight():
    layer = tg.nn.QuantizedLinear.from_linear(nn.Linear(64, 32), mode="nvfp4")
    x = mx.random.normal((5, 64))
    with tg.use_backend("mlx"):
        alone = layer(x) - layer.bias
        layer.global_scale = mx.array(0.25 * 2688)
        assert mx.allclose(layer(x), 0.25 * alone + layer.bias, rtol=1e-5, atol=1e-5)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(40, 32), nn.Linear(32, 32)

    def __call__(self, tokens):
        return self.embedding.as_linear(self.linear(self.embedding(tokens)))


class TestWhereMlxServes:
    """MLX's own ops serve linear layers without a call being looked up, unless more is asked."""

    LAYER, X = tg.nn.Linear(6, 4), mx.random.normal((3, 6), key=mx.random.key(7))

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("dtypes", [*product(DTYPES, repeat=2)])
    def test_layers_are_mlx_own(self, dtypes, bias, calls):
        ours, theirs = (made(kind, 6, 4, bias=bias) for kind in PAIRS[0][::-1])
        for layer in (ours, theirs):
            layer.set_dtype(dtypes[0])
        x = self.X.astype(dtypes[1])
        with tg.use_backend("mlx"):
            y = ours(x)
        assert not calls
        assert y.dtype == theirs(x).dtype
        assert mx.array_equal(y, theirs(x))

    @pytest.mark.parametrize(
        "asked",
        [
            lambda: tg.use_backend("emulator"),
            lambda: tg.use_kernel("any"),
            lambda: tg.use_gradients(False),
            lambda: tg.use_precision("float32"),
            tg.record,
        ],
    )
    def test_what_is_asked_for_is_heard(self, asked, calls):
        with tg.use_backend("mlx"), asked():
            self.LAYER(self.X)
        assert calls == ["addmm"]

    def test_a_map_hears_of_them_too(self, calls):
        with tg.use_backend("mlx"):
            y = tg.vmap(self.LAYER)(self.X[None])
        assert calls == ["addmm"]
        assert mx.array_equal(y[0], nn.Linear.__call__(self.LAYER, self.X))

    def test_sizes_may_stay_open(self):
        with tg.use_backend("mlx"):
            layer = mx.compile(lambda x: self.LAYER(x), shapeless=True)
            for rows in (self.X[:1], self.X):
                assert mx.allclose(layer(rows), nn.Linear.__call__(self.LAYER, rows), atol=1e-6)


QUANTIZED = ("quantized_matmul", "gather_qmm")


class TestLayersThatMlxServes:
    """Calls of MLX's op, with the layer's own arrays, where that is all there is to do."""

    @pytest.fixture
    def spies(self, monkeypatch):
        """Return the calls of MLX's two ops of quantized weights."""
        forget_prepared()
        spies = {name: mock.Mock(wraps=getattr(mx, name)) for name in QUANTIZED}
        for name, spy in spies.items():
            monkeypatch.setattr(mlx_ops, name, spy)
        yield spies
        forget_prepared()

    @pytest.fixture
    def on_gpu(self, monkeypatch):
        """Pretend to be on a GPU where MLX's ops serve every call."""
        for module in (quantized_fallback, expert_ops):
            monkeypatch.setattr(module, "is_on_gpu", lambda stream: True)

    @pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
    @pytest.mark.parametrize("mode", ["affine", "mxfp4"])
    def test_a_quantized_weight(self, spies, on_gpu, mode, dtype):
        layer = tg.nn.QuantizedLinear(64, 32, bias=False, mode=mode)
        layer.set_dtype(dtype)
        x = mx.random.normal((5, 64)).astype(dtype)
        with tg.use_backend("mlx"):
            y = layer(x)
        (call,) = spies["quantized_matmul"].call_args_list
        assert call.args[0] is x
        assert call.args[1] is layer.weight
        assert y.dtype == dtype
        assert mx.array_equal(y, nn.QuantizedLinear.__call__(layer, x))

    def test_a_cpu_sums_16_bits_in_float32(self, spies):
        layer = tg.nn.QuantizedLinear(64, 32, bias=False)
        layer.set_dtype(mx.bfloat16)
        x = mx.random.normal((5, 64)).astype(mx.bfloat16)
        with tg.use_backend("mlx"):
            assert layer(x).dtype == mx.bfloat16
        (call,) = spies["quantized_matmul"].call_args_list
        assert call.args[0].dtype == mx.float32

    @pytest.mark.parametrize("block", [tg.use_kernel("any"), tg.use_backend("emulator")])
    def test_a_kernel_that_is_asked_for_serves(self, spies, block):
        layer = tg.nn.QuantizedLinear(64, 32, bias=False)
        x = mx.random.normal((5, 64))
        with tg.use_backend("emulator"), tg.use_kernel("any"), block:
            mx.eval(layer(x))
        assert not spies["quantized_matmul"].called

    def test_a_wrong_width_is_told_in_our_words(self, spies):
        layer = tg.nn.QuantizedLinear(64, 32, bias=False)
        with tg.use_backend("mlx"), pytest.raises(ProblemError, match=r"^\[quantized_matmul\] "):
            layer(mx.zeros((5, 96)))

    def test_experts(self, spies, on_gpu):
        switch_layers = pytest.importorskip("mlx_lm.models.switch_layers")
        layer = switch_layers.QuantizedSwitchLinear(64, 32, 4, bias=False)
        x, chosen = mx.random.normal((5, 1, 1, 64)), mx.array([[0, 3]] * 5)
        with tg.use_backend("mlx"):
            y = switch_linear(layer, x, chosen)
            (call,) = spies["gather_qmm"].call_args_list
            assert call.args[0] is x
            assert call.args[5] is chosen
            assert mx.array_equal(y, layer(x, chosen))
            # MLX's op has no rule for it.
            mapped = tg.vmap(lambda row: switch_linear(layer, row, chosen[:1]))(x)
        assert mapped.shape == (5, 1, 2, 1, 32)
