"""Checkpoints of codes, written to disk in each layout: they stay codes, and logits are right."""

from __future__ import annotations

import json
import struct
from importlib import import_module
from math import ceil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")

import mlx_lm.utils
from mlx_lm.models import deepseek_v3, hunyuan, llama, qwen3_moe
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

import mlx_tilegemm as tg
from mlx_tilegemm import formats
from mlx_tilegemm.integrations import mlx_lm as integration
from mlx_tilegemm.integrations import safetensors
from mlx_tilegemm.nn import FP8Linear, FP8MultiLinear, FP8SwitchLinear, QuantizedLinear

LLAMA = {
    "model_type": "llama",
    "hidden_size": 160,
    "num_hidden_layers": 1,
    "intermediate_size": 288,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 61,
    "tie_word_embeddings": False,
    "attention_bias": True,
}
PROMPT = mx.array([[3, 1, 4, 1, 5, 9]])
STORED = {
    mx.float32: "F32",
    mx.bfloat16: "BF16",
    mx.float16: "F16",
    mx.uint8: "U8",
    mx.int8: "I8",
}


def write(folder: Path, config: dict, tensors: dict[str, tuple[str, mx.array]]) -> None:
    """Write a checkpoint: each tensor with the name of its format, which MLX would not write."""
    header, blobs, at = {}, [], 0
    for name, (form, array) in tensors.items():
        flat = mx.contiguous(array).reshape(-1)
        blob = np.array(flat.view(mx.uint8)).tobytes()
        header[name] = {
            "dtype": form,
            "shape": [*array.shape],
            "data_offsets": [at, at + len(blob)],
        }
        blobs.append(blob)
        at += len(blob)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(blobs)
    )
    (folder / "config.json").write_text(json.dumps(config))


def grown(scales: np.ndarray, shape: tuple[int, int], block: tuple[int, int]) -> np.ndarray:
    across = np.repeat(np.repeat(scales, block[0], axis=0), block[1], axis=1)
    return across[: shape[0], : shape[1]]


def as_floats(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


RANDOM = np.random.default_rng(0)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def _start_anew():
    """Weights are a test's own, whichever tests ran before it."""
    RANDOM.bit_generator.state = START


def in_bytes(shape, form, kind, dtype, name, powers=False):
    """Return the tensors beside ``weight`` of a weight of one code a byte, and its values."""
    rows, columns = shape
    stored = {"e4m3": "F8_E4M3", "e5m2": "F8_E5M2", "int8": "I8"}[form]
    if form == "int8":
        codes = mx.array(RANDOM.integers(-128, 128, shape).astype(np.int8))
        values = as_floats(codes)
    else:
        codes = formats.encode(mx.array(RANDOM.standard_normal(shape).astype(np.float32)), form)
        values = as_floats(formats.decode(codes, form))
    if kind == "none":
        return {"weight": (stored, codes)}, values
    grid, block = {
        "tensor": ((1,), shape),
        "scalar": ((), shape),
        "row": ((rows, 1), (1, columns)),
        "block": ((ceil(rows / 128), ceil(columns / 128)), (128, 128)),
        "groups": ((rows, ceil(columns / 32)), (1, 32)),
    }[kind]
    drawn = RANDOM.uniform(0.02, 0.06, grid) / (127 if form == "int8" else 1)
    scales = mx.array((2.0 ** np.round(np.log2(drawn)) if powers else drawn).astype(np.float32))
    if dtype == "F8_E8M0":
        scales = formats.encode(scales, "e8m0")
        factors = as_floats(formats.decode(scales, "e8m0"))
    else:
        scales = scales.astype(dtype)
        factors = as_floats(scales)
    form_of_scales = STORED.get(dtype, dtype)
    factors = factors.reshape(1, 1) if factors.size == 1 else factors
    tensors = {"weight": (stored, codes), name: (form_of_scales, scales)}
    return tensors, values * grown(factors, shape, block)


def in_fours(shape, packed):
    """Return the tensors of an nvfp4 weight, whose factor divides if it is packed."""
    dense = mx.array(0.05 * RANDOM.standard_normal(shape).astype(np.float32))
    words, scales = mx.quantize(20 * dense, mode="nvfp4")
    codes = words.view(mx.uint8)
    values = as_floats(formats.dequantize(words, scales, mode="nvfp4", dtype=mx.float32)) / 20
    if packed:
        names = ("weight_packed", "weight_global_scale", mx.array([20.0]))
    else:
        names = ("weight", "weight_scale_2", mx.array(0.05))
    tensors = {
        names[0]: ("U8", codes),
        "weight_scale": ("F8_E4M3", scales),
        names[1]: ("F32", names[2]),
    }
    return tensors, values


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}
LAYOUTS = {
    "DeepSeek": (FP8, ("e4m3", "block", mx.float32, "weight_scale_inv")),
    "Qwen3": (FP8, ("e4m3", "block", mx.bfloat16, "weight_scale_inv")),
    "Mistral": ({"quant_method": "fp8"}, ("e4m3", "scalar", mx.bfloat16, "weight_scale_inv")),
    "channels": (COMPRESSED, ("e4m3", "row", mx.bfloat16, "weight_scale")),
    "tensors": (COMPRESSED, ("e4m3", "tensor", mx.float32, "weight_scale")),
    "blocks": (
        {**COMPRESSED, "config_groups": {"g": {"weights": {"block_structure": [128, 128]}}}},
        ("e4m3", "block", mx.float32, "weight_scale"),
    ),
    "ModelOpt": (
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        ("e4m3", "scalar", mx.float32, "weight_scale"),
    ),
    "ComfyUI": ({}, ("e5m2", "scalar", mx.float32, "scale_weight")),
    "no scales": ({}, ("e5m2", "none", None, "")),
    "W8A8": (
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        ("int8", "row", mx.float32, "weight_scale"),
    ),
}
POWERS = {
    "ue8m0": ({**FP8, "scale_fmt": "ue8m0"}, ("e4m3", "block", mx.float32, "weight_scale_inv")),
    "MiniMax": (FP8, ("e4m3", "groups", "F8_E8M0", "weight_scale_inv")),
    "blocks of F8_E8M0": (FP8, ("e4m3", "block", "F8_E8M0", "weight_scale_inv")),
}


def checkpoint(folder, module, settings, made, config=LLAMA, raw=None):
    """Write a checkpoint of a model, and return the model that has its values in float32.

    Args:
        folder: Where to.
        module: mlx-lm's module of the model.
        settings: What it says of its quantization.
        made: Returns the tensors of a linear layer by their names in it, and its values.
        config: The model's configuration.
        raw: Returns its weights under the names that checkpoints have.
    """
    mx.random.seed(1)
    model = module.Model(module.ModelArgs.from_dict(config))
    tensors, values = {}, {}
    for name, array in (raw or raw_weights)(model, config).items():
        path, _, last = name.rpartition(".")
        if last == "weight" and array.ndim == 2 and not path.endswith(("embed_tokens", "gate")):
            own, value = made(array.shape)
            tensors |= {f"{path}.{key}": one for key, one in own.items()}
            tensors[f"{path}.input_scale"] = ("F32", mx.array(0.5))
            values[name] = mx.array(value)
        else:
            tensors[name] = ("F32", array.astype(mx.float32))
            values[name] = array.astype(mx.float32)
    write(folder, {**config, "quantization_config": settings} if settings else config, tensors)
    model.load_weights(list(model.sanitize(values).items()))
    model.eval()
    return model


def raw_weights(model, config):
    """Return random weights under the names that checkpoints have, before ``sanitize``."""
    found = dict(tree_flatten(model.parameters()))
    for path, layer in list(model.named_modules()):
        for name, parts in (("switch_mlp", "experts"),):
            for key in [key for key in found if key.startswith(f"{path}.{name}.") and path]:
                stacked = found.pop(key)
                for number in range(stacked.shape[0]):
                    found[key.replace(name, f"{parts}.{number}")] = stacked[number]
        if isinstance(layer, deepseek_v3.DeepseekV3Attention):
            rows = config["num_attention_heads"] * (
                config["qk_nope_head_dim"] + config["v_head_dim"]
            )
            for name in ("embed_q", "unembed_out"):
                found.pop(f"{path}.{name}.weight")
            found[f"{path}.kv_b_proj.weight"] = mx.random.normal((rows, config["kv_lora_rank"]))
    return found


def bytes_of(model):
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def hold(got, expected):
    scale = float(mx.abs(expected).max())
    np.testing.assert_allclose(np.array(got), np.array(expected), rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_stay_codes(tmp_path, layout):
    settings, (form, kind, dtype, name) = LAYOUTS[layout]
    dense = checkpoint(
        tmp_path, llama, settings, lambda shape: in_bytes(shape, form, kind, dtype, name)
    )
    model, config = integration.load_model(tmp_path)
    layers = [layer for _, layer in model.named_modules() if isinstance(layer, FP8Linear)]
    assert len(layers) == 8
    assert {layer.format for layer in layers} == {form}
    assert {layer.weight.dtype for layer in layers} == {mx.int8 if form == "int8" else mx.uint8}
    if kind != "none":
        assert {layer.scales.dtype for layer in layers} == {dtype}
    assert not [layer for _, layer in model.named_modules() if type(layer) is nn.Linear]
    size = (tmp_path / "model.safetensors").stat().st_size
    assert bytes_of(model) == pytest.approx(size, rel=0.05)
    assert config["quantization_config"] == settings
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))


@pytest.mark.parametrize("layout", ["DeepSeek", pytest.param("channels", marks=pytest.mark.slow)])
def test_logits_by_kernels(kernels, tmp_path, layout):
    settings, (form, kind, dtype, name) = LAYOUTS[layout]
    dense = checkpoint(
        tmp_path, llama, settings, lambda shape: in_bytes(shape, form, kind, dtype, name)
    )
    model, _ = integration.load_model(tmp_path)
    hold(model(PROMPT), dense(PROMPT))


@pytest.mark.parametrize("layout", POWERS)
def test_powers_of_two_become_mxfp8_exactly(tmp_path, layout):
    settings, (form, kind, dtype, name) = POWERS[layout]
    dense = checkpoint(
        tmp_path,
        llama,
        settings,
        lambda shape: in_bytes(shape, form, kind, dtype, name, powers=True),
    )
    model, _ = integration.load_model(tmp_path)
    pairs = [
        (layer, dict(dense.named_modules())[path])
        for path, layer in model.named_modules()
        if isinstance(layer, QuantizedLinear)
    ]
    assert len(pairs) == 8
    for layer, other in pairs:
        values = formats.dequantize(layer.weight, layer.scales, mode="mxfp8", dtype=mx.float32)
        assert layer.mode == "mxfp8"
        assert mx.array_equal(values, other.weight)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert bytes_of(model) == pytest.approx(size, rel=0.05)
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))


def test_scales_that_are_no_powers_stay_what_they_are(tmp_path):
    settings, made = LAYOUTS["DeepSeek"]
    settings = {**settings, "scale_fmt": "ue8m0"}
    dense = checkpoint(tmp_path, llama, settings, lambda shape: in_bytes(shape, *made))
    model, _ = integration.load_model(tmp_path)
    assert not [one for _, one in model.named_modules() if isinstance(one, QuantizedLinear)]
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))


@pytest.mark.parametrize("packed", [False, True], ids=["multiplier", "divisor"])
def test_nvfp4_with_the_scale_of_a_tensor(tmp_path, packed):
    settings = (
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
        if packed
        else {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    )
    dense = checkpoint(tmp_path, llama, settings, lambda shape: in_fours(shape, packed))
    model, _ = integration.load_model(tmp_path)
    layers = [one for _, one in model.named_modules() if isinstance(one, QuantizedLinear)]
    assert len(layers) == 8
    assert {layer.mode for layer in layers} == {"nvfp4"}
    size = (tmp_path / "model.safetensors").stat().st_size
    assert bytes_of(model) == pytest.approx(size, rel=0.05)
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))


LATENT = {
    "model_type": "deepseek_v3",
    "vocab_size": 61,
    "hidden_size": 160,
    "num_hidden_layers": 2,
    "intermediate_size": 288,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 48,
    "q_lora_rank": 40,
    "qk_rope_head_dim": 8,
    "v_head_dim": 32,
    "qk_nope_head_dim": 40,
    "first_k_dense_replace": 1,
    "scoring_func": "sigmoid",
}


def loaded(folder, module, layout, config, powers=False, raw=None):
    """Return a model of a layout's checkpoint, its layers by path, and its values in float32."""
    settings, made = {**LAYOUTS, **POWERS}[layout]
    dense = checkpoint(
        folder, module, settings, lambda shape: in_bytes(shape, *made, powers=powers), config, raw
    )
    model, _ = integration.load_model(folder)
    size = (folder / "model.safetensors").stat().st_size
    assert bytes_of(model) == pytest.approx(size, rel=0.05)
    return model, dict(model.named_modules()), dense


@pytest.mark.parametrize("layout", ["DeepSeek", "channels", "tensors", "MiniMax"])
def test_all_of_latent_attention_stays_codes(tmp_path, layout):
    """Experts too, and the projection that is cut by heads, whose blocks are not of one head."""
    model, layers, dense = loaded(tmp_path, deepseek_v3, layout, LATENT, layout in POWERS)
    of_codes = {path for path, one in layers.items() if isinstance(one, FP8Linear)}
    experts = layers["model.layers.1.mlp.switch_mlp.up_proj"]
    if layout == "MiniMax":
        # Widths of 160 are whole groups of 32, those of 40 and 48 are not.
        assert (type(experts).__name__, experts.mode) == ("QuantizedSwitchLinear", "mxfp8")
        assert of_codes == {f"model.layers.{i}.self_attn.q_b_proj" for i in range(2)}
    else:
        assert len(of_codes) == 4 * 2 + 3 + 3 + 1
        assert isinstance(experts, FP8SwitchLinear)
        assert experts.weight.shape == (4, 64, 160)
    for number in range(2):
        parts = [layers[f"model.layers.{number}.self_attn.{name}"] for name in HALVES]
        assert [type(one) for one in parts] == [FP8MultiLinear] * 2
        assert [one.weight.shape for one in parts] == [(4, 40, 48), (4, 32, 48)]
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))
        cache = make_prompt_cache(model)
        steps = [model(PROMPT[:, i : i + 1], cache=cache) for i in range(PROMPT.size)]
        hold(mx.concatenate(steps, axis=1), dense(PROMPT))


HALVES = ("embed_q", "unembed_out")

MIXTURE = {
    "model_type": "qwen3_moe",
    "hidden_size": 96,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 160,
    "rms_norm_eps": 1e-6,
    "vocab_size": 61,
    "tie_word_embeddings": False,
    "rope_theta": 1e4,
    "max_position_embeddings": 64,
    "norm_topk_prob": True,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_experts_stay_codes(tmp_path, layout):
    own = mx.stack
    model, layers, dense = loaded(tmp_path, qwen3_moe, layout, MIXTURE)
    assert mx.stack is own
    experts = [one for one in layers.values() if isinstance(one, FP8SwitchLinear)]
    assert len(experts) == 3
    assert {one.format for one in experts} == {LAYOUTS[layout][1][0]}
    assert not [one for one in layers.values() if isinstance(one, SwitchLinear)]
    with tg.use_backend("mlx"):
        for tokens in (PROMPT, mx.concatenate([PROMPT] * 6, axis=1)):
            hold(model(tokens), dense(tokens))
            with integration.patched(model):
                hold(model(tokens), dense(tokens))


@pytest.mark.parametrize("layout", POWERS)
def test_experts_of_powers_of_two_become_mxfp8(tmp_path, layout):
    model, layers, dense = loaded(tmp_path, qwen3_moe, layout, MIXTURE, powers=True)
    experts = [one for one in layers.values() if isinstance(one, QuantizedSwitchLinear)]
    assert [one.mode for one in experts] == ["mxfp8"] * 3
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))


@pytest.mark.slow
def test_experts_by_kernels(kernels, tmp_path):
    _, layers, dense = loaded(tmp_path, qwen3_moe, "Qwen3", MIXTURE)
    path = "model.layers.0.mlp.switch_mlp"
    x, chosen = mx.random.normal((1, 5, 96)), mx.array([[[0, 5], [5, 1], [2, 2], [0, 5], [3, 4]]])
    with tg.record() as seen:
        got = layers[path](x, chosen)
    assert {type(one).__name__ for one in seen.problems} == {"ExpertProblem"}
    with tg.use_backend("mlx"):
        hold(got, dict(dense.named_modules())[path](x, chosen))


@pytest.mark.parametrize(
    "odd",
    [
        ("row", mx.float32),
        ("scalar", mx.bfloat16),
        pytest.param(("none", None), marks=pytest.mark.slow),
        pytest.param(("groups", "F8_E8M0"), marks=pytest.mark.slow),
    ],
    ids=lambda one: one[0],
)
def test_experts_of_unlike_scales_stay_codes(tmp_path, odd):
    """One expert whose scales are of something else: all get those of blocks that are in both."""
    kind, dtype = odd
    count = iter(range(1000))

    def some(shape):
        at = next(count) if shape == (160, 96) else 0
        own = (kind, dtype) if at == 1 else ("block", mx.float32)
        return in_bytes(shape, "e4m3", *own, "weight_scale_inv")

    dense = checkpoint(tmp_path, qwen3_moe, LAYOUTS["DeepSeek"][0], some, MIXTURE)
    model, _ = integration.load_model(tmp_path)
    layers = dict(model.named_modules())
    kinds = {type(layers[f"model.layers.0.mlp.switch_mlp.{name}"]) for name in EXPERTS}
    assert kinds == {FP8SwitchLinear}
    size = (tmp_path / "model.safetensors").stat().st_size
    assert bytes_of(model) == pytest.approx(size, rel=0.05)
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))


HUNYUAN = {
    "model_type": "hunyuan",
    "hidden_size": 160,
    "attention_bias": False,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-4,
    "rope_theta": 1000,
    "vocab_size": 61,
    "moe_topk": 2,
    "num_experts": 1,
    "num_shared_expert": 1,
    "use_mixed_mlp_moe": False,
    "use_qk_norm": True,
    "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    "use_cla": True,
    "cla_share_factor": 2,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("layout", ["DeepSeek", "channels", "tensors", "no scales"])
def test_what_is_cut_in_rows_of_any_order_stays_codes(tmp_path, layout):
    """Queries, keys and values of each group of heads, one after another in one weight."""

    def joined(model, config):
        found = raw_weights(model, config)
        for key in [key for key in found if key.endswith(".q_proj.weight")]:
            q, k, v = (
                mx.reshape(found.pop(key.replace("q_proj", name)), (2, -1, 40, 160))
                for name in ("q_proj", "k_proj", "v_proj")
            )
            whole = mx.flatten(mx.concatenate([q, k, v], axis=1), 0, 2)
            found[key.replace("q_proj", "qkv_proj")] = whole
        for key in [key for key in found if key.endswith(".up_proj.weight")]:
            pair = [found.pop(key), found.pop(key.replace("up_proj", "gate_proj"))]
            found[key.replace("up_proj", "gate_and_up_proj")] = mx.concatenate(pair)
        return found

    model, layers, dense = loaded(tmp_path, hunyuan, layout, HUNYUAN, raw=joined)
    assert not [path for path, one in layers.items() if type(one) in (nn.Linear, SwitchLinear)]
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_made_of_several_weights_stays_codes(tmp_path, layout, monkeypatch):
    """One weight of the rows of two, of which neither has a whole number of blocks."""
    parts = ("first", "second")

    def in_two(model, config):
        found = raw_weights(model, config)
        for key in [key for key in found if key.endswith(".up_proj.weight")]:
            whole = found.pop(key)
            for name, rows in zip(parts, (slice(0, 132), slice(132, None)), strict=True):
                found[key.replace("up_proj", name)] = whole[rows]
        return found

    def sanitize(self, weights):
        for key in [key for key in weights if ".first." in key]:
            pair = [weights.pop(key.replace("first", name)) for name in parts]
            weights[key.replace("first", "up_proj")] = mx.concatenate(pair)
        return weights

    monkeypatch.setattr(llama.Model, "sanitize", sanitize)
    _, layers, _ = loaded(tmp_path, llama, layout, LLAMA, raw=in_two)
    assert isinstance(layers["model.layers.0.mlp.up_proj"], FP8Linear)


def test_experts_of_unlike_formats_are_decoded(tmp_path):
    """What is no stack of one format is what mlx-lm makes of it."""
    count = iter(range(1000))

    def some(shape):
        form = "e5m2" if shape == (160, 96) and next(count) == 1 else "e4m3"
        tensors, values = in_bytes(shape, form, "block", mx.float32, "weight_scale_inv")
        return tensors, np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))

    dense = checkpoint(tmp_path, qwen3_moe, LAYOUTS["DeepSeek"][0], some, MIXTURE)
    model, _ = integration.load_model(tmp_path)
    layers = dict(model.named_modules())
    kinds = [type(layers[f"model.layers.0.mlp.switch_mlp.{name}"]) for name in EXPERTS]
    assert sorted(kind is SwitchLinear for kind in kinds) == [False, False, True]
    # Of given experts: a router may choose others where it is close, for rounding alone.
    x, chosen = mx.random.normal((1, 3, 96)), mx.array([[[0, 3], [1, 2], [2, 0]]])
    with tg.use_backend("mlx"):
        y, wanted = (
            as_floats(one.model.layers[0].mlp.switch_mlp(x, chosen)) for one in (model, dense)
        )
    np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-2 * np.abs(wanted).max())


EXPERTS = ("gate_proj", "up_proj", "down_proj")

JOINED = {
    "qwen3_5_moe": {
        "model_type": "qwen3_5_moe",
        "text_config": {
            "model_type": "qwen3_5_moe_text",
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 61,
            "full_attention_interval": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": 32,
            "moe_intermediate_size": 160,
        },
    },
    "llama4": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "attention_bias": False,
            "attention_chunk_size": 64,
            "head_dim": 16,
            "hidden_size": 96,
            "interleave_moe_layer_step": 1,
            "intermediate_size": 160,
            "intermediate_size_mlp": 64,
            "max_position_embeddings": 64,
            "num_attention_heads": 4,
            "num_experts_per_tok": 1,
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "num_local_experts": 4,
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "rope_theta": 1e4,
            "use_qk_norm": False,
            "vocab_size": 61,
        },
    },
}
"""Models that have experts' first two projections in one tensor: by rows, or turned, by columns."""


def in_matrices(shape, kind, turned):
    """Return codes of several matrices, their scales, and the values of the matrices.

    Args:
        shape: Matrices, rows and columns, as layers have them.
        kind: What a scale is of.
        turned: The transposes are stored.
    """
    count, rows, columns = (shape[0], *shape[:0:-1]) if turned else shape
    drawn = RANDOM.standard_normal((count, rows, columns)).astype(np.float32)
    codes = formats.encode(mx.array(drawn), "e4m3")
    block = {
        "matrix": (rows, columns),
        "row": (1, columns),
        "column": (rows, 1),
        "block": (128, 128),
    }[kind]
    grid = (count, ceil(rows / block[0]), ceil(columns / block[1]))
    scales = RANDOM.uniform(0.02, 0.06, grid).astype(np.float32)
    factors = np.stack([grown(one, (rows, columns), block) for one in scales])
    values = as_floats(formats.decode(codes, "e4m3")) * factors
    return codes, mx.array(scales), np.swapaxes(values, 1, 2) if turned else values


def joined_checkpoint(folder, module, config, kind, turned):
    """Write a checkpoint with joined experts, and return the model with its values in float32."""
    mx.random.seed(1)
    model = module.Model(module.ModelArgs.from_dict(config))
    found = dict(tree_flatten(model.parameters()))
    tensors = {name: ("F32", one.astype(mx.float32)) for name, one in found.items()}
    for name in [name for name in found if name.endswith("gate_proj.weight")]:
        base, shape = name.removesuffix(".gate_proj.weight"), found[name].shape
        if len(shape) < 3:
            continue
        for key in EXPERTS:
            del tensors[f"{base}.{key}.weight"]
        of_checkpoint = base.replace("switch_mlp", "experts")
        count, rows, columns = shape
        for key, size in (
            ("gate_up_proj", (count, 2 * rows, columns)),
            ("down_proj", (count, columns, rows)),
        ):
            codes, scales, values = in_matrices(size, kind, turned)
            tensors[f"{of_checkpoint}.{key}"] = ("F8_E4M3", codes)
            tensors[f"{of_checkpoint}.{key}_scale_inv"] = ("F32", scales)
            parts = {"down_proj": values}
            if key == "gate_up_proj":
                parts = {"gate_proj": values[:, :rows], "up_proj": values[:, rows:]}
            for part, value in parts.items():
                found[f"{base}.{part}.weight"] = mx.array(value)
    write(folder, {**config, "quantization_config": FP8}, tensors)
    model.load_weights([(name, one.astype(mx.float32)) for name, one in found.items()])
    model.eval()
    return model


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen3_5_moe", "block"),
        ("qwen3_5_moe", "matrix"),
        pytest.param("qwen3_5_moe", "row", marks=pytest.mark.slow),
        ("llama4", "column"),
        pytest.param("llama4", "block", marks=pytest.mark.slow),
    ],
)
def test_joined_experts_stay_codes(tmp_path, name, kind):
    """Cut where no block ends, and turned: they have the very values of the parts."""
    module = import_module(f"mlx_lm.models.{name}")
    dense = joined_checkpoint(tmp_path, module, JOINED[name], kind, name == "llama4")
    model, _ = integration.load_model(tmp_path)
    layers = dict(model.named_modules())
    experts = [one for one in layers.values() if isinstance(one, FP8SwitchLinear)]
    assert len(experts) == 3 * JOINED[name]["text_config"]["num_hidden_layers"]
    others = dict(dense.named_modules())
    for path, one in layers.items():
        if isinstance(one, FP8SwitchLinear):
            assert mx.array_equal(one.decoded(), others[path].weight)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert bytes_of(model) == pytest.approx(size, rel=0.05)
    with tg.use_backend("mlx"):
        hold(model(PROMPT), dense(PROMPT))


def test_joined_experts_that_are_changed_are_decoded(tmp_path, monkeypatch):
    """A part is believed to be codes only if it has their values."""
    module = import_module("mlx_lm.models.llama4")
    own = module.Model.sanitize

    def changed(self, weights):
        found = own(self, weights)
        return {
            name: 2 * one if name.endswith("up_proj.weight") else one for name, one in found.items()
        }

    joined_checkpoint(tmp_path, module, JOINED["llama4"], "column", True)
    monkeypatch.setattr(module.Model, "sanitize", changed)
    model, _ = integration.load_model(tmp_path)
    layers = dict(model.named_modules())
    path = "language_model.model.layers.0.feed_forward.experts"
    kinds = [type(layers[f"{path}.{name}"]) for name in EXPERTS]
    assert kinds == [FP8SwitchLinear, SwitchLinear, FP8SwitchLinear]


def test_heads_that_are_cut_in_another_way_are_decoded(tmp_path, monkeypatch):
    """What a model makes of the projection is believed only if codes have the same values."""
    own = deepseek_v3.Model.sanitize

    def turned(self, weights):
        found = own(self, weights)
        return {
            name: one[::-1] if name.endswith("embed_q.weight") else one
            for name, one in found.items()
        }

    settings, made = LAYOUTS["DeepSeek"]
    checkpoint(tmp_path, deepseek_v3, settings, lambda shape: in_bytes(shape, *made), LATENT)
    monkeypatch.setattr(deepseek_v3.Model, "sanitize", turned)
    model, _ = integration.load_model(tmp_path)
    layers = dict(model.named_modules())
    for name in HALVES:
        assert type(layers[f"model.layers.0.self_attn.{name}"]).__name__ == "MultiLinear"


def test_a_model_without_codes_is_mlx_lm_s(tmp_path):
    dense = checkpoint(
        tmp_path, llama, {}, lambda shape: ({"weight": ("F32", mx.ones(shape))}, np.ones(shape))
    )
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    tensors, _ = safetensors.header(tmp_path / "model.safetensors")
    assert {one["dtype"] for one in tensors.values()} == {"F32"}
    with pytest.raises(ValueError, match="input_scale"):
        integration.load_model(tmp_path)
    model, _ = integration.load_model(tmp_path, strict=False)
    assert [one for _, one in model.named_modules() if type(one) is nn.Linear]
    hold(model(PROMPT), dense(PROMPT))


def test_load_returns_what_mlx_lm_s_does(tmp_path, monkeypatch):
    settings, made = LAYOUTS["channels"]
    checkpoint(tmp_path, llama, settings, lambda shape: in_bytes(shape, *made))
    monkeypatch.setattr(mlx_lm.utils, "load_tokenizer", lambda *_, **__: "tokenizer")
    with pytest.raises(ValueError, match="float-quantized"):
        mlx_lm.utils.load(str(tmp_path))
    model, tokenizer, config = integration.load(tmp_path, lazy=True, return_config=True)
    assert tokenizer == "tokenizer"
    assert config["quantization_config"] == settings
    assert isinstance(model.lm_head, FP8Linear)
    assert "sanitize" not in vars(model)
    with pytest.raises(ValueError, match="float-quantized"):
        mlx_lm.utils.load(str(tmp_path))


def test_scales_of_other_blocks_are_refused(tmp_path):
    settings, made = LAYOUTS["DeepSeek"]
    checkpoint(tmp_path, llama, settings, lambda shape: in_bytes(shape, *made))
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = [64, 64]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(tg.errors.ProblemError, match=r"blocks of 64 by 64, .* got \(\d,\d\)\."):
        integration.load_model(tmp_path)


def test_patching_and_audit_know_the_layer(tmp_path):
    settings, made = LAYOUTS["DeepSeek"]
    checkpoint(tmp_path, llama, settings, lambda shape: in_bytes(shape, *made))
    model, _ = integration.load_model(tmp_path)
    report = integration.patch(model)
    reasons = {one.reason for one in report.left_alone if one.layer == "FP8Linear"}
    assert reasons == {"computes through this library already"}
    audit = tg.audit(model, PROMPT, chip="m4-max")
    served = [row for row in audit.rows if row.primitive == "fp8_scaled_matmul"]
    assert {row.path for row in served} == {
        path for path, one in model.named_modules() if isinstance(one, FP8Linear)
    }
    assert all(row.ours for row in served)
