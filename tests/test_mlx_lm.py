"""Real model classes of mlx-lm, with random weights, agree with themselves unpatched."""

from __future__ import annotations

import importlib
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from routed_calls import note_attention, note_ops

pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")

from mlx_lm.generate import generate_step
from mlx_lm.models import base
from mlx_lm.models.cache import QuantizedKVCache, make_prompt_cache
from mlx_lm.models.mla import MultiLinear
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers

import mlx_tilegemm as tg
from mlx_tilegemm.core.dtypes import from_mlx
from mlx_tilegemm.errors import DTypeError
from mlx_tilegemm.families.quantized.problem import QuantizedProblem
from mlx_tilegemm.integrations import metal_kernels
from mlx_tilegemm.integrations import mlx_lm as integration
from mlx_tilegemm.layers.routing import original_of

ATTENTION = base.scaled_dot_product_attention
FAST_ATTENTION = mx.fast.scaled_dot_product_attention

TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
LATENT = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "qk_nope_head_dim": 12,
    "first_k_dense_replace": 1,
}
MODELS = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "qwen3": {
        "head_dim": 8,
        "max_position_embeddings": 512,
        "rope_theta": 1e4,
        "tie_word_embeddings": True,
    },
    "gemma": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": 4, "sliding_window_pattern": 2},
    "deepseek_v3": LATENT,
}
LARGER = {"vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 320}
LARGER_LATENT = {"kv_lora_rank": 48, "q_lora_rank": 40, "v_head_dim": 32, "qk_nope_head_dim": 40}
# Linears and latent projections of a layer, and heads, that are served by each op.
EXPECTED = {
    "llama": {"addmm": 14, "matmul": 1, "attention_chain": 2},
    "qwen3": {"matmul": 15, "attention_chain": 2},
    "gemma": {"matmul": 15, "attention_chain": 2},
    "gemma3_text": {"matmul": 15, "attention_chain": 2},
    "deepseek_v3": {"matmul": 19, "attention_chain": 2},
}
PROMPT = mx.array([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]])
DTYPES = [mx.float16, mx.bfloat16]


@pytest.fixture
def calls(monkeypatch):
    """Return how often each op was called by a route."""
    made = {}

    def note(name):
        made[name] = made.get(name, 0) + 1

    note_ops(monkeypatch, (tg.matmul, tg.addmm, tg.attention_chain), note)
    note_attention(monkeypatch, note)
    return made


@pytest.fixture(autouse=True)
def names_stay():
    yield
    assert mx.fast.scaled_dot_product_attention is FAST_ATTENTION
    for name, module in list(sys.modules.items()):
        if name.startswith("mlx_lm.models."):
            value = vars(module).get("scaled_dot_product_attention")
            assert original_of(value) is value, name


def build(name, **changes):
    module = importlib.import_module(f"mlx_lm.models.{name}")
    config = {"model_type": name, **TINY, **MODELS[name], **changes}
    mx.random.seed(7)
    model = module.Model(module.ModelArgs.from_dict(config))
    model.eval()
    return model


def larger(name):
    return build(name, **LARGER, **(LARGER_LATENT if name == "deepseek_v3" else {}))


def cast_linears(model, dtype):
    """Give every layer that multiplies matrices weights of a dtype; the rest stays float32."""
    for path, layer in model.named_modules():
        if "Linear" in type(layer).__name__ or path.endswith("mlp.gate"):
            layer.set_dtype(dtype)
    return model


def upcast(model):
    model.set_dtype(mx.float32)
    return model


def logits(model, prompt=PROMPT, steps=3):
    """Return the logits of a prompt and of the tokens after it, one by one, with a cache."""
    cache = make_prompt_cache(model)
    outputs = [model(prompt, cache=cache)]
    outputs += [model(prompt[:, i : i + 1], cache=cache) for i in range(steps)]
    result = mx.concatenate(outputs, axis=1)
    mx.eval(result)
    return result


def relative_error(got, expected):
    assert got.dtype == expected.dtype
    return float(mx.abs(got - expected).max() / mx.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
class TestAgreement:
    @pytest.mark.slow
    def test_float32(self, kernels, calls, name):
        model = build(name)
        expected = logits(model)
        assert not calls
        with integration.patched(model):
            got = logits(model, steps=0)
            assert calls == EXPECTED[name]
            assert relative_error(got, expected[:, : PROMPT.shape[1]]) < 1e-4
            assert relative_error(logits(model), expected) < 1e-4

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_mixed_dtypes(self, kernels, name, dtype):
        model = cast_linears(build(name), dtype)
        with integration.patched(model):
            got = logits(model, steps=2)
        assert got.dtype == mx.float32
        assert relative_error(got, logits(upcast(model), steps=2)) < 1e-4

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [mx.float32, *DTYPES], ids=str)
    def test_larger_by_mlx_ops(self, name, dtype):
        model = cast_linears(larger(name), dtype)
        prompt = mx.random.randint(0, LARGER["vocab_size"], (2, 50), key=mx.random.key(1))
        with tg.use_backend("mlx"), integration.patched(model):
            got = logits(model, prompt, steps=12)
        assert relative_error(got, logits(upcast(model), prompt, steps=12)) < 1e-4

    @pytest.mark.parametrize("dtype", [mx.float32, *DTYPES], ids=str)
    def test_a_training_step_by_mlx_ops(self, name, dtype):
        model = cast_linears(build(name), dtype)
        step = nn.value_and_grad(model, next_token_loss)
        loss, gradients = step(model, PROMPT)
        with tg.use_backend("mlx"), integration.patched(model):
            got, got_gradients = step(model, PROMPT)
        assert relative_error(got, loss) < 1e-5
        assert_same_gradients(got_gradients, gradients)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
    def test_a_training_step_by_kernels(self, kernels, calls, name, dtype):
        model = cast_linears(build(name), dtype)
        step = nn.value_and_grad(model, next_token_loss)
        loss, gradients = step(model, PROMPT)
        with integration.patched(model):
            got, got_gradients = step(model, PROMPT)
        assert calls == EXPECTED[name]
        assert relative_error(got, loss) < 1e-5
        assert_same_gradients(got_gradients, gradients)

    @pytest.mark.slow
    def test_everything_patched(self, kernels, calls, name):
        model = build(name)
        expected = logits(model, steps=1)
        with integration.patched():
            got = logits(model, steps=0)
            assert calls == EXPECTED[name]
            assert relative_error(got, expected[:, : PROMPT.shape[1]]) < 1e-4

    def test_without_the_integration(self, calls, name):
        model = build(name)
        expected = logits(model)
        with tg.use_backend("mlx"), tg.patched(model):
            got = logits(model, steps=0)
            assert calls["attention_chain"] == EXPECTED[name]["attention_chain"]
        assert relative_error(got, expected[:, : PROMPT.shape[1]]) < 1e-4


def next_token_loss(model, tokens):
    predictions = model(tokens[:, :-1]).astype(mx.float32)
    return nn.losses.cross_entropy(predictions, tokens[:, 1:], reduction="mean")


def assert_same_gradients(got, expected):
    for (name, gradient), (_, reference) in zip(
        tree_flatten(got), tree_flatten(expected), strict=True
    ):
        assert gradient.dtype == reference.dtype, name
        # Both may round a gradient to its dtype, to either side.
        unit = 1e-4 + 2 * from_mlx(gradient.dtype).unit_roundoff
        difference = mx.abs(gradient.astype(mx.float32) - reference.astype(mx.float32))
        assert difference.max() <= unit * mx.abs(reference).max(), name


OTHERS = {
    "gemma2": {
        "head_dim": 16,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 16,
    },
    "gpt2": {"n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64},
    "gpt_oss": {
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
        "rope_theta": 1e4,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {"rope_theta": 1e4},
    "starcoder2": {"norm_epsilon": 1e-5},
}


OWN_PRODUCTS = {
    "seed_oss": {"head_dim": 8, "tie_word_embeddings": True},
    "mamba2": {
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 8,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": (0.0, float("inf")),
        "time_step_rank": 4,
        "layer_norm_epsilon": 1e-5,
    },
    "qwen3_next": {
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": 512,
        "head_dim": 8,
    },
}


def build_other(name):
    module = importlib.import_module(f"mlx_lm.models.{name}")
    config = {"model_type": name, **TINY, **OWN_PRODUCTS[name]}
    return module.Model(module.ModelArgs.from_dict(config))


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
@pytest.mark.parametrize("mode", [None, "affine", "mxfp4", "mxfp8", "nvfp4"])
@pytest.mark.parametrize("bias", [False, True])
class TestAdapters:
    def test_compute_what_they_did(self, kind, mode, bias):
        adapter = adapted(kind, mode, bias)
        x = mx.random.normal((3, 32), key=mx.random.key(2))
        expected = adapter(x)
        with tg.use_backend("mlx"), integration.patched(adapter), tg.record() as seen:
            got = adapter(x)
        assert relative_error(got, expected) < 1e-5
        assert got.dtype == expected.dtype
        assert len(seen.problems) >= 2
        weights = [one for one in seen.problems if isinstance(one, QuantizedProblem)]
        assert len(weights) == bool(mode)

    def test_reports_are_true(self, kind, mode, bias):
        adapter = adapted(kind, mode, bias)
        report = integration.patch(adapter)
        expected = ["", "linear"] if kind is LoRALinear else [""]
        assert [one.path for one in report.replaced] == expected
        found = tg.audit(adapter, tg.ArraySpec(shape=(3, 32), dtype=mx.float32))
        assert all(row.ours for row in found.rows)


def adapted(kind, mode, bias):
    mx.random.seed(4)
    linear = nn.Linear(32, 32, bias=bias)
    if mode:
        linear = linear.to_quantized(32 if mode == "affine" else None, mode=mode)
    adapter = kind.from_base(linear, r=4, scale=2.0)
    adapter.lora_b = mx.random.normal(adapter.lora_b.shape)
    return adapter


class TestAdaptersOfCodes:
    """Around layers of 8-bit codes, against the same adapter around what they decode to."""

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
    @pytest.mark.parametrize("form", ["e4m3", "int8"])
    def test_compute_what_those_of_values_do(self, kind, form, bias):
        adapter, plain = around_codes(kind, form, bias)
        assert isinstance(adapter, kind)
        x = mx.random.normal((3, 32), key=mx.random.key(2))
        expected = plain(x)
        with tg.use_backend("mlx"):
            assert relative_error(adapter(x), expected) < 1e-5
            with integration.patched(adapter), tg.record() as seen:
                got = adapter(x)
        assert relative_error(got, expected) < 1e-5
        assert "ScaledProblem" in {type(one).__name__ for one in seen.problems}
        found = tg.audit(adapter, tg.ArraySpec(shape=(3, 32), dtype=mx.float32))
        assert found.rows

    @pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
    def test_train_what_those_of_values_do(self, kind):
        adapter, plain = around_codes(kind, "e4m3", True)
        x = mx.random.normal((3, 32), key=mx.random.key(2))
        names = ("lora_a", "lora_b", *(["m"] if kind is DoRALinear else []))
        with tg.use_backend("mlx"):
            got, wanted = (
                nn.value_and_grad(one, lambda x, one=one: (one(x) ** 2).sum())(x)[1]
                for one in (adapter, plain)
            )
        assert "linear" not in dict(tree_flatten(adapter.trainable_parameters()))
        for name in names:
            assert relative_error(got[name], wanted[name]) < 1e-4

    @pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
    def test_are_fused(self, kind):
        adapter, plain = around_codes(kind, "e4m3", True)
        x = mx.random.normal((3, 32), key=mx.random.key(2))
        expected = plain(x)
        dense = adapter.fuse(dequantize=True)
        assert dense.weight.dtype == mx.bfloat16
        assert relative_error(dense(x), expected) < 2e-2
        coded = adapter.fuse()
        assert (type(coded), coded.format) == (tg.nn.FP8Linear, "e4m3")
        assert adapter.linear.weight.dtype == mx.uint8
        with tg.use_backend("mlx"):
            assert relative_error(coded(x), expected) < 5e-2
            assert relative_error(adapter(x), expected) < 1e-5

    def test_mlx_lm_s_tuner_makes_them(self):
        model = nn.Module()
        model.layers = [nn.Module()]
        model.layers[0].linear = tg.nn.FP8Linear.from_linear(nn.Linear(32, 32))
        model.freeze()
        linear_to_lora_layers(model, 1, {"rank": 4, "scale": 2.0, "dropout": 0.0})
        assert isinstance(model.layers[0].linear, LoRALinear)
        names = {name for name, _ in tree_flatten(model.trainable_parameters())}
        assert names == {"layers.0.linear.lora_a", "layers.0.linear.lora_b"}


def around_codes(kind, form, bias):
    """Return an adapter of a layer of codes, and the same of a layer of their values."""
    mx.random.seed(4)
    layer = tg.nn.FP8Linear.from_linear(nn.Linear(32, 32, bias=bias), form)
    dense = nn.Linear(32, 32, bias=bias)
    dense.weight = layer.decoded()
    if bias:
        dense.bias = layer.bias
    dense.freeze()
    make = layer.to_lora if kind is LoRALinear else layer.to_dora
    adapter, plain = make(r=4, scale=2.0), kind.from_base(dense, r=4, scale=2.0)
    plain.lora_a = adapter.lora_a
    adapter.lora_b = plain.lora_b = mx.random.normal(adapter.lora_b.shape)
    return adapter, plain


@pytest.mark.parametrize("mode", ["affine", "mxfp8"])
def test_an_adapter_of_tied_quantized_embeddings(mode):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            embedding = nn.Embedding(40, 64).to_quantized(mode=mode)
            self.adapter = LoRAEmbedding.from_base(embedding, r=4)
            self.adapter.lora_b = mx.random.normal(self.adapter.lora_b.shape)

        def __call__(self, x):
            return self.adapter.as_linear(x)

    model, x = Head(), mx.random.normal((3, 64))
    expected = model(x)
    report = integration.patch(model)
    assert [(one.op, one.path) for one in report.replaced] == [
        ("matmul", "adapter"),
        ("quantized_matmul", "adapter.embedding"),
    ]
    with tg.use_backend("mlx"), tg.record() as seen:
        assert relative_error(model(x), expected) < 1e-5
    assert len(seen.problems) == 3


@pytest.mark.parametrize("mode", ["affine", "mxfp4", "mxfp8", "nvfp4"])
def test_quantized_projections_of_latent_attention(mode):
    layer = MultiLinear(64, 32, 3).to_quantized(*GROUPS[mode], mode=mode)
    rows = {True: mx.random.normal((2, 3, 5, 64)), False: mx.random.normal((2, 3, 5, 32))}
    expected = [layer(x, transpose) for transpose, x in rows.items()]
    (replaced,) = integration.patch(layer).replaced
    assert replaced.op == "quantized_matmul"
    with tg.use_backend("mlx"), tg.record() as seen:
        got = [layer(x, transpose) for transpose, x in rows.items()]
    assert max(map(relative_error, got, expected)) < 1e-5
    assert [one.transpose for one in seen.problems] == [True, False]


GROUPS = {"affine": (32, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


@pytest.fixture
def uncompiled():
    """Spare MLX the compiling of what it fuses, which takes its CPU seconds for each model."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize("name", OTHERS)
def test_others_by_mlx_ops(uncompiled, name):
    config = {**TINY, "layer_norm_epsilon": 1e-5, **OTHERS[name]}
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(7)
    model = module.Model(module.ModelArgs.from_dict({"model_type": name, **config}))
    expected = logits(model)
    with tg.use_backend("mlx"), integration.patched(model) as report:
        got = logits(model)
    assert relative_error(got, expected) < 1e-4
    ops = [one.op for one in report.replaced]
    spelled_out = [one.path for one in report.left_alone if "spelled out" in one.reason]
    assert ops.count("attention_chain") == (0 if name == "gemma2" else 2)
    expected = [f"model.layers.{i}.self_attn" for i in range(2)] if name == "gemma2" else []
    assert spelled_out == expected


@pytest.mark.slow
def test_sinks_and_windows_of_a_real_model(kernels, calls):
    module = importlib.import_module("mlx_lm.models.gpt_oss")
    config = {"model_type": "gpt_oss", **TINY, **OTHERS["gpt_oss"]}
    model = module.Model(module.ModelArgs.from_dict(config))
    for layer in model.layers:
        layer.self_attn.sinks = mx.random.normal((4,), key=mx.random.key(3))
    expected = logits(model, steps=1)
    with integration.patched(model):
        got = logits(model, steps=1)
    assert calls["attention_chain"] == 4
    assert relative_error(got, expected) < 1e-4


class TestReport:
    def test_latent_attention_and_experts(self):
        report = integration.patch(build("deepseek_v3"))
        ops = {one.path: one.op for one in report.replaced}
        assert ops["model.layers.0.self_attn"] == "attention_chain"
        assert ops["model.layers.0.self_attn.embed_q"] == "matmul"
        reasons = {one.path: one.reason for one in report.left_alone}
        assert ops["model.layers.1.mlp.switch_mlp.up_proj"] == "gather_mm"
        assert ops["model.layers.1.mlp.switch_mlp"] == "gather_mm"
        assert reasons["model.layers.1.mlp.gate"] == "its products are its own: @"
        assert reasons["model.layers.0.self_attn"] == (
            "beside MLX's attention function its code has @, quantized_matmul"
        )

    def test_what_the_code_around_multiplies(self):
        reasons = {
            one.path: one.reason for one in integration.patch(build_other("seed_oss")).left_alone
        }
        assert reasons[""] == "its products are its own: @"
        assert reasons["model.embed_tokens"] == (
            "the code around it reads its weight and calls no as_linear"
        )

    @pytest.mark.parametrize(
        ("patch", "name", "path", "named"),
        [
            (tg.patch, "qwen3_next", "model.layers.0.linear_attn", "_gated_delta_kernel"),
            (integration.patch, "mamba2", "backbone.layers.0.mixer", "_ssm_kernel"),
        ],
    )
    def test_mixers_with_recurrences_of_their_own(self, monkeypatch, patch, name, path, named):
        monkeypatch.setattr(metal_kernels, "are_served", lambda: False)
        report = patch(build_other(name))
        (reason,) = (one.reason for one in report.left_alone if one.path == path)
        assert named in reason

    def test_unpatch_restores_every_class(self):
        model = build("deepseek_v3")
        before = {path: type(layer) for path, layer in model.named_modules()}
        integration.patch(model)
        tg.unpatch(model)
        assert {path: type(layer) for path, layer in model.named_modules()} == before

    def test_only_modules(self):
        with pytest.raises(DTypeError, match=r"\[patch\] Expected an mlx.nn.Module, got str\."):
            integration.patch("llama")


class TestNames:
    def test_of_a_class_without_a_loaded_module(self, calls):
        code = (
            "class Attention(nn.Module):\n"
            "    def __call__(self, x):\n"
            "        return mx.fast.scaled_dot_product_attention(x, x, x, scale=1.0)\n"
        )
        namespace = {"nn": nn, "mx": mx, "__name__": "made_by_exec"}
        exec(code, namespace)
        model, x = namespace["Attention"](), mx.random.normal((1, 1, 3, 4))
        with tg.use_backend("mlx"), integration.patched(model):
            model(x)
        assert calls == {"attention_chain": 1}

    def test_of_an_unpatched_model_do_what_they_did(self, calls):
        model, other = build("llama"), build("llama")
        with tg.use_backend("mlx"), integration.patched(model):
            logits(other, steps=1)
        assert not calls


class TestAttention:
    def test_with_a_quantized_cache_stays_with_mlx(self, calls):
        model = build("llama", hidden_size=128)

        def run():
            caches = [QuantizedKVCache(group_size=32, bits=8) for _ in model.layers]
            return mx.concatenate(
                [model(PROMPT, cache=caches), model(PROMPT[:, :1], cache=caches)], axis=1
            )

        expected = run()
        # Layers of a recorded call go through the ops here, whoever serves them.
        with tg.use_backend("mlx"), tg.record(), integration.patched(model):
            assert relative_error(run(), expected) < 1e-4
        assert "attention_chain" not in calls
        assert calls["addmm"]

    def test_with_sinks_is_served(self, kernels, calls):
        q = mx.random.normal((1, 2, 3, 8))
        arguments = (q, q, q, None, 0.3, "causal", mx.array([1.0, 2.0]))
        expected = ATTENTION(*arguments)
        with integration.patched():
            got = base.scaled_dot_product_attention(*arguments)
        assert relative_error(got, expected) < 1e-5
        assert calls == {"attention_chain": 1}


@pytest.mark.slow
def test_generated_tokens_are_the_same(kernels, calls):
    model = cast_linears(build("qwen3"), mx.bfloat16)
    prompt = PROMPT[0]

    def tokens():
        return [int(token) for token, _ in generate_step(prompt, model, max_tokens=8)]

    expected = tokens()
    integration.patch(model)
    assert tokens() == expected
    # Two layers: the prompt but its last token, that one, and each token that is made.
    assert calls["attention_chain"] == 2 * (1 + 1 + 8)
