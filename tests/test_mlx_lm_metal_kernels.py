"""Kernels of mlx-lm's own, run by a backend in models that are patched, and in no others."""

from __future__ import annotations

import importlib
import pickle
import sys
import threading
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map_with_path

pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")

from mlx_lm.models.cache import make_prompt_cache

import mlx_tilegemm as tg
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.core.context import noting_problems
from mlx_tilegemm.emulator import metal_kernel
from mlx_tilegemm.families.attention.problem import AttentionProblem
from mlx_tilegemm.integrations import metal_kernels
from mlx_tilegemm.integrations import mlx_lm as integration
from mlx_tilegemm.layers.routing import original_of

TINY = {"vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}
MODELS = {
    "rwkv7": {
        **TINY,
        "norm_eps": 1e-5,
        "head_dim": 32,
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
    },
    "mamba2": {
        **TINY,
        "num_heads": 4,
        "head_dim": 32,
        "intermediate_size": 128,
        "state_size": 32,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 2,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": (0.0, float("inf")),
        "time_step_rank": "auto",
    },
    "kimi_k3": {
        **TINY,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "linear_attn_config": {
            "kda_layers": [1],
            "num_heads": 4,
            "head_dim": 16,
            "short_conv_kernel_size": 4,
            "gate_lower_bound": -5.0,
        },
        "attn_res_block_size": 1,
        "num_experts": 0,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
    },
    "bitnet": {
        **TINY,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
    },
}
KERNELS = {
    "rwkv7": ("wkv7_kernel", "Rwkv7TimeMixing", "_wkv7"),
    "mamba2": ("ssm_kernel", "Mamba2Block", "ssm_update"),
    "kimi_k3": ("attnres_mix", "KimiK3DecoderLayer", "_attn_res_mix"),
    "bitnet": ("bitlinear_matmul", "BitLinear", "execute_matmul_kernel"),
}
PLAIN = [name for name in MODELS if name != "bitnet"]
"""Models that compute without Metal too."""

PROMPT = mx.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


class Emulated(EmulatorBackend):
    """A backend that emulates mlx-lm's kernels and leaves all ops of this library to MLX."""

    capabilities = replace(EmulatorBackend.capabilities, modelled=False)

    def __init__(self):
        self.launched = []

    def metal_kernel(self):
        return self.make

    def make(self, *args, **options):
        kernel = metal_kernel(*args, **options)

        def call(**given):
            self.launched.append(options["name"])
            return kernel(**given)

        return call


@pytest.fixture(autouse=True)
def nothing_of_others_changes():
    held = mx.fast.metal_kernel, mx.metal.is_available, mx.default_device
    yield
    assert held == (mx.fast.metal_kernel, mx.metal.is_available, mx.default_device)
    for rule in metal_kernels.function_rules():
        module, name = rule.function.__module__, rule.function.__qualname__
        value = sys.modules[module]
        for part in name.split("."):
            value = getattr(value, part)
        assert value is rule.function
    for name in MODELS:
        module = sys.modules.get(f"mlx_lm.models.{name}")
        assert all(original_of(value) is value for value in vars(module or mx).values())


def build(name, **changes):
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(7)
    config = {"model_type": name, **MODELS[name], **changes}
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.float32, lambda dtype: mx.issubdtype(dtype, mx.floating))
    model.update(tree_map_with_path(_drawn, model.parameters()))
    model.eval()
    return model


def _drawn(path, array):
    if array.dtype == mx.uint8:
        codes = [mx.random.randint(0, 3, array.shape) << shift for shift in (0, 2, 4, 6)]
        return mx.stack(codes).sum(axis=0).astype(mx.uint8)
    if path.endswith("weight_scale"):
        return mx.full(array.shape, 0.1)
    # Of zeros, recurrences would stay zero.
    return array if mx.any(array) else 0.1 * mx.random.normal(array.shape)


def patch(model, backend):
    with tg.use_backend(backend):
        return integration.patch(model)


def logits(model, steps=2):
    """Return the logits of a prompt and of tokens after it."""
    cache = make_prompt_cache(model)
    pieces = [PROMPT, *(PROMPT[:, i : i + 1] for i in range(steps))]
    result = mx.concatenate([model(piece, cache=cache) for piece in pieces], axis=1)
    mx.eval(result)
    return result


def unpacked(layer, x, weight):
    """Return what BitNet's kernel returns, by MLX's ops."""
    parts = [((weight >> shift) & 3).astype(mx.float32) - 1 for shift in (0, 2, 4, 6)]
    product = x @ mx.concatenate(parts, axis=0).T
    scale = layer.weight_scale
    return product / scale if layer.invert_weight_scales else product * scale


def close(got, wanted, tolerance=2e-5):
    got, wanted = np.array(got), np.array(wanted)
    assert np.abs(got - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_patched_models_run_their_kernels(name, monkeypatch):
    kernel, layer, function = KERNELS[name]
    model = build(name)
    with monkeypatch.context() as patches:
        if name == "bitnet":
            kind = type(model.layers[0].mlp.up_proj)
            patches.setattr(kind, "execute_matmul_kernel", unpacked)
        wanted = logits(model)
    backend = Emulated()
    report = patch(model, backend)
    served = [one for one in report.replaced if "metal_kernel" in one.op]
    assert layer in {one.layer for one in served}
    assert {one.method for one in served} == {function}
    with tg.use_backend(backend):
        got = logits(model)
    close(got, wanted)
    assert set(backend.launched) == {kernel}
    assert len(backend.launched) >= 4
    tg.unpatch(model)
    del backend.launched[:]
    if name in PLAIN:
        with tg.use_backend(backend):
            assert mx.array_equal(logits(model), wanted)
    assert not backend.launched


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_gradients_are_those_of_the_original(name):
    tokens = PROMPT[:, :2] if name == "mamba2" else PROMPT
    wanted_loss, wanted = gradients(build(name), tokens)
    # Kimi K3 keeps what it computes of its weights, which would be constants in a second gradient.
    model, backend = build(name), Emulated()
    with tg.use_backend(backend), integration.patched(model):
        got_loss, got = gradients(model, tokens)
    # Mamba's kernel is that of a token behind others.
    assert bool(backend.launched) == (name != "mamba2")
    assert float(got_loss) == pytest.approx(float(wanted_loss), rel=1e-5)
    for path, gradient in got.items():
        close(gradient, wanted[path], 1e-4)


def gradients(model, tokens):
    """Return the loss of a model in evaluation mode, where kernels run, and its gradients."""

    def loss(tokens):
        return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).mean()

    value, found = nn.value_and_grad(model, loss)(tokens)
    mx.eval(value, found)
    return value, dict(tree_flatten(found))


def ssm_arguments(size=32, length=1):
    mx.random.seed(3)
    shapes = [(2, length, 4, 8), (4,), *[(2, length, 2, size)] * 2, (4,), (2, length, 4), (4,)]
    return [mx.random.normal(shape) for shape in (*shapes, (2, 4, 8, size))]


def comb_arguments():
    comb = mx.softmax(mx.random.normal((2, 3, 4, 4), key=mx.random.key(1)), axis=-1)
    return comb, mx.array([1e-6])


def sinkhorn():
    return importlib.import_module("mlx_lm.models.deepseek_v41")._sinkhorn


class Lazy(Emulated):
    """A backend whose kernel, DeepSeek's, MLX can follow: it is made of ops."""

    def make(self, **options):
        def call(*, inputs, template, **_):
            self.launched.append(options["name"])
            return [sinkhorn()(inputs[0], iters=dict(template)["ITERS"], eps=inputs[1])]

        return call


def ssm_update():
    return importlib.import_module("mlx_lm.models.ssm").ssm_update


def test_derivatives_of_one_token():
    arguments = ssm_arguments()
    cotangents = [mx.random.normal((2, 1, 4, 8)), mx.random.normal((2, 4, 8, 32))]
    backend = Emulated()

    def served(*arrays):
        return metal_kernels.on_kernel(ssm_update(), *arrays)

    with tg.use_backend(backend):
        outputs, found = mx.vjp(served, arguments, cotangents)
        _, moved = mx.jvp(served, arguments, arguments)
        mx.eval(outputs, found, moved)
    assert backend.launched
    wanted_outputs, wanted = mx.vjp(ssm_update(), arguments, cotangents)
    for got, other in zip([*outputs, *found], [*wanted_outputs, *wanted], strict=True):
        close(got, other)
    for got, other in zip(moved, mx.jvp(ssm_update(), arguments, arguments)[1], strict=True):
        close(got, other)


def test_batches_are_those_of_the_original():
    comb, eps = comb_arguments()

    def call(function):
        return mx.vmap(lambda x: function(x, iters=3, eps=eps))(comb)

    with tg.use_backend(Lazy()):
        got = call(lambda *args, **options: metal_kernels.on_kernel(sinkhorn(), *args, **options))
    close(got, call(sinkhorn()))


def test_a_layer_of_deepseek():
    module = importlib.import_module("mlx_lm.models.deepseek_v41")
    arguments = module.ModelArgs(hidden_size=16, hc_mult=4, hc_sinkhorn_iters=3)
    layer = module.HyperConnection(arguments)
    layer.fn = mx.random.normal(layer.fn.shape, key=mx.random.key(2))
    streams = mx.random.normal((1, 3, 4, 16), key=mx.random.key(3))
    wanted = layer(streams)
    backend = Emulated()
    with tg.use_backend(backend), integration.patched(layer) as report:
        got = layer(streams)
    assert str(report).splitlines()[1].split()[1:4] == [
        "HyperConnection._sinkhorn",
        "->",
        "metal_kernel",
    ]
    for one, other in zip(got, wanted, strict=True):
        close(one, other)
    assert backend.launched == ["deepseek_v41_sinkhorn"]


@pytest.mark.parametrize(
    ("size", "length", "options"),
    [
        (16, 1, {}),
        (32, 2, {}),
        (32, 1, {"mask": mx.ones((2, 1), dtype=mx.bool_)}),
        (32, 1, {"lengths": mx.array([1, -1])}),
        (32, 1, {"state": None}),
    ],
    ids=("state-of-16", "two-tokens", "mask", "lengths", "no-state"),
)
def test_what_a_kernel_does_not_compute_stays(size, length, options, monkeypatch):
    monkeypatch.setattr(metal_kernels, "_twin", None)
    arguments = ssm_arguments(size, length)
    if "state" in options:
        arguments.pop()
    with tg.use_backend(Emulated()):
        got = metal_kernels.on_kernel(ssm_update(), *arguments, **options)
    for one, other in zip(got, ssm_update()(*arguments, **options), strict=True):
        assert mx.array_equal(one, other)


@pytest.mark.parametrize("backend", ["mlx", "auto", "emulator"])
def test_other_backends_leave_mlx_lm_as_it_is(backend, monkeypatch):
    monkeypatch.setattr(metal_kernels, "_twin", None)
    with tg.use_backend(backend):
        got = metal_kernels.on_kernel(ssm_update(), *ssm_arguments())
    for one, other in zip(got, ssm_update()(*ssm_arguments()), strict=True):
        assert mx.array_equal(one, other)


def test_the_cuda_backend_makes_kernels():
    makers = {one.name: one.metal_kernel() for one in tg.backends.BACKENDS}
    assert makers == {"metal": None, "cuda": tg.cuda.metal_kernel, "emulator": None}


def test_rules_are_where_a_backend_makes_kernels(monkeypatch):
    def are_there():
        return any(one.op == "metal_kernel" for one in integration._function_rules())

    ssm_update()
    monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
    assert not are_there()
    with tg.use_backend(Emulated()):
        assert are_there()
    with tg.use_backend("emulator"):
        assert not are_there()
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    assert are_there()


def test_a_compiled_function_has_the_kernel():
    comb, eps = comb_arguments()
    backend = Lazy()

    def call(x):
        return metal_kernels.on_kernel(sinkhorn(), x, iters=3, eps=eps)

    with tg.use_backend(backend):
        compiled = mx.compile(call)
        for scale in (1.0, 2.0):
            close(compiled(comb * scale), sinkhorn()(comb * scale, iters=3, eps=eps))
        assert len(backend.launched) == 1
        gradient = mx.grad(lambda x: compiled(x)[..., 0].square().sum())(comb)
    close(gradient, mx.grad(lambda x: sinkhorn()(x, iters=3, eps=eps)[..., 0].square().sum())(comb))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rwkv7", "mamba2"])
def test_other_models_and_threads_are_not_touched(name):
    model, other = build(name, num_hidden_layers=1), build(name, num_hidden_layers=1)
    wanted = logits(model, steps=1)
    backend = Emulated()
    patch(model, backend)
    with tg.use_backend(backend):
        assert mx.array_equal(logits(other, steps=1), wanted)
    assert not backend.launched
    tg.unpatch(model)
    with tg.use_backend(backend), integration.patched() as report:
        apart = _in_another_thread(lambda: logits(model, steps=1), backend)
        assert not backend.launched
        close(logits(other, steps=1), wanted)
    assert mx.array_equal(apart, wanted)
    assert set(backend.launched) == {KERNELS[name][0]}
    served = {one.path for one in report.replaced if one.op == "metal_kernel"}
    assert any(path.endswith(f".{KERNELS[name][2]}") for path in served)


def _in_another_thread(call, backend):
    found = []

    def run():
        with tg.use_backend(backend):
            found.append(call())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.slow
def test_patched_models_pickle():
    model, backend = build("rwkv7", num_hidden_layers=1), Emulated()
    patch(model, backend)
    with tg.use_backend(backend):
        close(logits(pickle.loads(pickle.dumps(model)), steps=0), logits(model, steps=0))
    assert backend.launched == ["wkv7_kernel"] * 2


def test_an_audit_shows_the_kernel():
    class Mlx(Emulated):
        def metal_kernel(self):
            return mx.fast.metal_kernel

    with tg.use_backend(Mlx()):
        found = tg.audit(
            lambda x: metal_kernels.on_kernel(sinkhorn(), x, iters=3, eps=mx.array([1e-6])),
            comb_arguments()[0],
        )
    assert [row.primitive for row in found.rows] == ["CustomKernel"]
    assert "deepseek_v41_sinkhorn" in found.rows[0].served_by


def test_functions_of_other_versions_are_left_alone(monkeypatch):
    module = importlib.import_module("mlx_lm.models.ssm")
    own = module.ssm_update

    def other(x, state):
        return x, state

    def rules():
        return [rule.function for rule in metal_kernels.function_rules()]

    assert own in rules()
    monkeypatch.setattr(module, "ssm_update", other)
    assert not {own, other} & {*rules()}
    monkeypatch.delattr(module, "ssm_update")
    assert own not in rules()


MUSE = {
    **TINY,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "post_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 1e4},
    "layer_rope_theta": [1e4, 0],
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 4,
    "final_logit_softcapping": 30.0,
    "output_multiplier": 1.0,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "moe_hidden_size": 32,
    "moe_intermediate_size": 32,
}


@pytest.mark.slow
def test_layers_of_muse_spark_run_kernels_and_attention(monkeypatch):
    """It is nothing without its kernels, which are compared with themselves, called by nobody."""
    module = importlib.import_module("mlx_lm.models.muse_spark")
    mx.random.seed(7)
    model = module.Model(module.ModelArgs(model_type="muse_spark", text_config=MUSE))
    model.eval()
    backend = Emulated()
    functions = {
        name: metal_kernels._twin(*key, backend.make)
        for key, name in ((key, key[1]) for key in metal_kernels._KERNELS)
        if key[0].startswith("mlx_lm.kernels")
    }
    with monkeypatch.context() as patches:
        for name, function in functions.items():
            patches.setattr(module, name, function)
        wanted = logits(model)
    alone = list(backend.launched)
    del backend.launched[:]
    report = patch(model, backend)
    noted = []
    with tg.use_backend(backend), noting_problems(noted.append):
        got = logits(model)
    close(got.astype(mx.float32), wanted.astype(mx.float32), 1e-2)
    assert backend.launched == alone
    assert set(alone) >= {"qk_norm", "qk_norm_rope"}
    found = {one.layer: one for one in report.replaced if "metal_kernel" in one.op}
    assert set(found) >= {"Attention", "MoE", "TransformerBlock"}
    assert found["Attention"].op == "metal_kernel, attention_chain"
    sizes = {(one.q_len, one.kv_len) for one in noted if isinstance(one, AttentionProblem)}
    assert sizes == {(5, 5), (1, 4), (1, 6), (1, 7)}
    tg.unpatch(model)
    assert type(model.layers[0].self_attn) is module.Attention
