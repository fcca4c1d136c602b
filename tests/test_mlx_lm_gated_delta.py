"""Gated delta nets of mlx-lm's models, with random weights, agree with themselves unpatched."""

from __future__ import annotations

import copy
import importlib
import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")

from mlx_lm.generate import BatchGenerator
from mlx_lm.models import gated_delta
from mlx_lm.models.cache import ArraysCache, BatchKVCache, make_prompt_cache

import mlx_tilegemm as tg
from mlx_tilegemm.core.context import noting_problems
from mlx_tilegemm.families.gated_delta.problem import DeltaGradientProblem, DeltaProblem
from mlx_tilegemm.integrations import mlx_lm as integration
from mlx_tilegemm.layers import patching
from mlx_tilegemm.layers.routing import original_of

OP = "gated_delta_update"
TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
GATED = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 512,
}
MODELS = {
    "qwen3_next": {
        **TINY,
        **GATED,
        "num_experts": 0,
        "num_experts_per_tok": 1,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 16,
        "mlp_only_layers": [],
        "moe_intermediate_size": 16,
        "head_dim": 8,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
    },
    "qwen3_5": {
        "text_config": {
            **TINY,
            **GATED,
            "model_type": "qwen3_5_text",
            "head_dim": 8,
            "rope_parameters": {
                "type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
                "mrope_section": [1, 1, 0],
            },
        }
    },
    "kimi_linear": {
        **TINY,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "rope_theta": 1e4,
        "linear_attn_config": {
            "kda_layers": [1, 2, 3],
            "full_attn_layers": [4],
            "num_heads": 4,
            "head_dim": 16,
            "short_conv_kernel_size": 4,
        },
        "model_max_length": 512,
        "num_experts": 0,
        "moe_intermediate_size": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "first_k_dense_replace": 4,
    },
    "kimi_k3": {
        **TINY,
        "num_key_value_heads": 4,
        "linear_attn_config": {
            "kda_layers": [1, 2, 3],
            "num_heads": 4,
            "head_dim": 16,
            "short_conv_kernel_size": 4,
            "gate_lower_bound": -5.0,
        },
        "attn_res_block_size": 2,
        "num_experts": 0,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
    },
    "bailing_moe_v3": {
        **{name: TINY[name] for name in TINY if name != "num_key_value_heads"},
        "head_dim": 16,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "first_k_dense_replace": 4,
    },
    "olmo_hybrid": {
        **TINY,
        **GATED,
        "linear_num_key_heads": 4,
        "linear_allow_neg_eigval": True,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
}
SITES = {
    "qwen3_next": "Qwen3NextGatedDeltaNet",
    "qwen3_5": "GatedDeltaNet",
    "kimi_linear": "KimiDeltaAttention",
    "kimi_k3": None,
    "bailing_moe_v3": None,
    "olmo_hybrid": None,
}
PROMPT = mx.array([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]] * 2)


@pytest.fixture(autouse=True)
def names_stay():
    before = gated_delta.gated_delta_update
    yield
    assert gated_delta.gated_delta_update is before
    for name in SITES:
        module = importlib.import_module(f"mlx_lm.models.{name}")
        assert original_of(module.gated_delta_update) is module.gated_delta_update


def build(name, **changes):
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(7)
    config = {"model_type": name, **MODELS[name], **changes}
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.float32)
    model.eval()
    return model


def patch(model):
    """Route a model's recurrences and attention: its other products need kernels each."""
    return patching.patch_by(replace(integration._rules(), layers=()), model)[0]


def recurrences(report):
    return [one for one in report.replaced if one.op == OP]


def logits(model, prompt=PROMPT, cut=None, steps=2):
    """Return the logits of a prompt, in one piece or two, and of tokens after it."""
    cache = make_prompt_cache(model)
    pieces = [prompt] if cut is None else [prompt[:, :cut], prompt[:, cut:]]
    pieces += [prompt[:, i : i + 1] for i in range(steps)]
    result = mx.concatenate([model(piece, cache=cache) for piece in pieces], axis=1)
    mx.eval(result)
    return result


def close(got, wanted, tolerance=2e-5):
    got, wanted = np.array(got), np.array(wanted)
    assert np.abs(got - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1e-3)


def test_every_module_of_mlx_lm_has_its_site():
    """Seven call sites in six modules: each class that calls the function is found."""
    # What is a Metal kernel is routed too, on NVIDIA GPUs.
    rule, *_ = integration._function_rules()
    found = {}
    for name in SITES:
        module = importlib.import_module(f"mlx_lm.models.{name}")
        kinds = [
            kind
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, nn.Module) and rule.sites(kind)
        ]
        found[name] = [kind.__name__ for kind in kinds if kind.__module__ == module.__name__]
    assert all(found.values()), found
    for name, kind in SITES.items():
        assert kind is None or found[name] == [kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_prefill_and_decoding(name):
    model = build(name)
    wanted = logits(model)
    report = patch(model)
    assert len(recurrences(report)) == 3
    noted = []
    with noting_problems(noted.append):
        got = logits(model)
    close(got, wanted)
    lengths = {one.length for one in noted if isinstance(one, DeltaProblem)}
    assert lengths == {20, 1}
    # A prompt that is cut anywhere is the whole.
    for cut in range(1, 20):
        close(logits(model, PROMPT[:1], cut, steps=cut == 9), wanted[:1, : 20 + (cut == 9)])
    tg.unpatch(model)
    assert mx.array_equal(logits(model), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step(name):
    model = build(name)
    model.train()
    tokens = PROMPT[:, :11]

    def loss(tokens):
        return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).mean()

    step = nn.value_and_grad(model, loss)
    wanted_loss, wanted = step(tokens)
    mx.eval(wanted_loss, wanted)
    noted = []
    patch(model)
    with noting_problems(noted.append):
        got_loss, got = step(tokens)
        mx.eval(got_loss, got)
    assert any(isinstance(one, DeltaGradientProblem) for one in noted)
    assert float(got_loss) == pytest.approx(float(wanted_loss), rel=1e-5)
    wanted = dict(tree_flatten(wanted))
    for path, gradient in tree_flatten(got):
        close(gradient, wanted[path], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5", "kimi_linear", "bailing_moe_v3"])
def test_padded_batches(name):
    """Prompts of two lengths in one batch, padded on the left and cut, are as each alone."""
    model = build(name)
    single = [logits(model, PROMPT[:1, :n])[0, -3:] for n in (5, 9)]
    patch(model)
    prompts = [PROMPT[0, :n].tolist() for n in (5, 9)]
    batch = mx.array([[0] * 4 + prompts[0], prompts[1]])
    cache = [_padded(one, [4, 0]) for one in make_prompt_cache(model)]
    model(batch[:, :6], cache=cache)
    found = [model(batch[:, 6:], cache=cache)[:, -1:]]
    found += [model(PROMPT[:, i : i + 1], cache=cache) for i in range(2)]
    close(mx.concatenate(found, axis=1), mx.stack(single), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_batches_are_generated(name, monkeypatch):
    """mlx-lm's own generator: prompts of several lengths, in pieces, that join and leave."""
    model = build(name)
    with monkeypatch.context() as patches:
        patches.setattr(gated_delta, "gated_delta_ops", _as_its_kernel(gated_delta.gated_delta_ops))
        wanted = generated(model)
    noted = []
    report = patch(model)
    with noting_problems(noted.append):
        got = generated(model)
    assert len(recurrences(report)) == 3
    updates = [one for one in noted if isinstance(one, DeltaProblem)]
    assert {one.length for one in updates} >= {1, 8}
    assert any(one.mask for one in updates)
    for uid, rows in wanted.items():
        assert [token for token, _ in got[uid]] == [token for token, _ in rows]
        close(mx.stack([row for _, row in got[uid]]), mx.stack([row for _, row in rows]))


def _as_its_kernel(ops):
    """Return mlx-lm's ops with y of masked tokens 0, as of its kernel: OLMo-Hybrid reads them."""

    def zeroed(*arrays):
        y, state = ops(*arrays)
        mask = arrays[6]
        return y if mask is None else mx.where(mask[..., None, None], y, 0), state

    return zeroed


def _padded(cache, padding):
    if isinstance(cache, ArraysCache):
        return type(cache)(len(cache.cache), left_padding=padding)
    return BatchKVCache(padding)


def generated(model):
    """Return the tokens that a batch generates, with the logarithms of all probabilities."""
    with closing(
        BatchGenerator(
            model,
            max_tokens=3,
            prefill_step_size=8,
            prefill_batch_size=2,
            stream=mx.default_stream(mx.cpu),
        )
    ) as generator:
        prompts = [PROMPT[0, :n].tolist() for n in (19, 4, 10)]
        generator.insert(prompts, max_tokens=[3, 2, 3])
        found = {}
        while responses := generator.next_generated():
            for one in responses:
                found.setdefault(one.uid, []).append((one.token, one.logprobs))
    assert sorted(len(rows) for rows in found.values()) == [2, 3, 3]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_refused_guesses_are_taken_back(name):
    """A cache's state, kept before guesses are checked, is that before them, at every length."""
    model = build(name)
    prompt, guesses = PROMPT[:, :9], PROMPT[:, 9:13]
    wanted = logits(model, prompt=PROMPT[:, :15], steps=0)
    patch(model)
    cache = make_prompt_cache(model)
    model(prompt, cache=cache)
    for accepted in (0, 2, 4):
        tried = copy.deepcopy(cache)
        close(model(guesses, cache=tried), wanted[:, 9:13])
        again = copy.deepcopy(cache)
        if accepted:
            model(guesses[:, :accepted], cache=again)
        got = model(PROMPT[:, 9 + accepted : 11 + accepted], cache=again)
        close(got, wanted[:, 9 + accepted : 11 + accepted])


@pytest.mark.slow
def test_every_model_is_patched_while_a_block_runs():
    model = build("olmo_hybrid")
    wanted = logits(model)
    noted = []
    with integration.patched() as report, noting_problems(noted.append):
        close(logits(model), wanted)
    assert {one.path.rpartition(".")[0] for one in recurrences(report)} >= {
        "mlx_lm.models.olmo_hybrid",
        "mlx_lm.models.gated_delta",
    }
    assert any(isinstance(one, DeltaProblem) for one in noted)
    noted.clear()
    with noting_problems(noted.append):
        logits(model)
    assert not noted


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_compiled_step_has_the_recurrence_of_its_time(monkeypatch, everywhere):
    """Kimi K3 compiles the step of one token on a GPU: before, while and after it is patched."""
    monkeypatch.setattr(importlib.import_module("mlx_lm.models.kimi_k3"), "mx", _OnGpu())
    model = build("kimi_k3")
    attention = [layer.self_attn for layer in model.layers[:3]]
    rules = replace(integration._rules(), layers=())

    def served():
        noted = []
        with tg.use_backend("mlx"), noting_problems(noted.append):
            found = logits(model, prompt=PROMPT[:, :3])
        assert all(layer._step for layer in attention)
        return found, {one.length for one in noted if isinstance(one, DeltaProblem)}

    wanted, lengths = served()
    assert not lengths
    with patching.patched_by(rules, None if everywhere else model):
        for traced in ({3, 1}, {3}):
            got, lengths = served()
            close(got, wanted)
            assert lengths == traced
    found, lengths = served()
    assert not lengths
    assert mx.array_equal(found, wanted)


class _OnGpu:
    """`mlx.core` that says there is Metal."""

    metal = SimpleNamespace(is_available=lambda: True)

    def __getattr__(self, name):
        return getattr(mx, name)


def test_what_is_compiled_is_made_anew():
    """Kimi K3 keeps a compiled step, which may have been traced before or while patched."""
    model = build("qwen3_next")
    layer = model.model.layers[0].linear_attn
    layer._step = "traced before"
    integration.patch(model)
    assert layer._step is None
    layer._step = "traced meanwhile"
    integration.patch(model)
    assert layer._step == "traced meanwhile"
    tg.unpatch(model)
    assert layer._step is None


def test_patched_models_pickle_and_copy():
    model = build("qwen3_next")
    patch(model)
    with tg.use_backend("mlx"):
        wanted = logits(model, steps=0)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            noted = []
            with noting_problems(noted.append):
                assert mx.array_equal(logits(twin, steps=0), wanted)
            assert any(isinstance(one, DeltaProblem) for one in noted)


@pytest.mark.parametrize("name", MODELS)
def test_the_audit_shows_who_serves_the_recurrence(name):
    model = build(name)
    patch(model)
    found = tg.audit(model, PROMPT, chip="m4")
    rows = [row for row in found.rows if row.primitive == OP]
    assert len(rows) == 3
    assert all(row.ours and row.served_by.startswith("delta_") for row in rows)
    values = 24 if "linear_value_head_dim" in str(MODELS[name]) else 16
    assert all(row.flops == 7 * 2 * 4 * 20 * 16 * values for row in rows)


def test_a_state_of_another_dtype_stays_one():
    q, k = (mx.random.normal((1, 3, 2, 16)) for _ in range(2))
    v, a, b = mx.random.normal((1, 3, 2, 8)), mx.zeros((1, 3, 2)), mx.zeros((1, 3, 2))
    state = mx.random.normal((1, 2, 8, 16)).astype(mx.bfloat16)
    gates = (mx.zeros((2,)), mx.ones((2,)))
    wanted = gated_delta.gated_delta_update(q, k, v, a, b, *gates, state)
    for options in ({}, {"lower_bound": -5.0}, {"allow_neg_eigval": True}):
        wanted = gated_delta.gated_delta_update(
            q, k, v, a, b, *gates, state.astype(mx.float32), **options
        )
        got = integration.gated_delta(
            gated_delta.gated_delta_update, q, k, v, a, b, *gates, state, **options
        )
        assert got[1].dtype == mx.bfloat16
        close(got[0], wanted[0])
        close(got[1].astype(mx.float32), wanted[1], 1e-2)


@pytest.mark.slow
def test_the_counts_are_of_the_same_results(monkeypatch):
    """The benchmark compares both sides' results before it counts them; ours wait less often."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    import gated_delta as bench

    ours, theirs = bench.sides(bench.parse("1x24x1x2x32x24:f32"))
    assert 0 < ours.device_bytes < 2 * theirs.device_bytes
    assert (ours.steps, theirs.steps) == (3, 24)
