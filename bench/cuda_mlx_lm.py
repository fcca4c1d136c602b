"""Models of mlx-lm whose kernels are Metal's, patched on an NVIDIA GPU.

    MLX_ENABLE_TF32=0 python bench/cuda_mlx_lm.py --json mlx-lm.json
    python bench/cuda_mlx_lm.py --backend emulator --small        # without a GPU

Where Metal is missing, mlx-lm computes recurrences by loops of small ops, and does not run BitNet
at all; a patched model runs its kernels. Each model, of random float32 weights, reads a prompt and
then tokens one by one, patched and as it is (of BitNet: with weights that are unpacked at each
call). Logits have to agree; MLX's products are TF32 but for the variable above.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
from backend import require
from mlx.utils import tree_map_with_path

import mlx_tilegemm as tg
from mlx_tilegemm import emulator
from mlx_tilegemm.backends.cuda import CudaBackend
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.core.context import noting_problems
from mlx_tilegemm.families.gated_delta.problem import DeltaProblem
from mlx_tilegemm.integrations import mlx_lm as integration

COMMON = {"vocab_size": 4096, "num_hidden_layers": 4}
MODELS: dict[str, dict[str, Any]] = {
    "rwkv7": {
        "hidden_size": 2048, "intermediate_size": 8192, "norm_eps": 1e-5, "head_dim": 64,
        "a_low_rank_dim": 96, "v_low_rank_dim": 64, "gate_low_rank_dim": 256,
        "decay_low_rank_dim": 96,
    },
    "mamba2": {
        "num_heads": 80, "head_dim": 64, "hidden_size": 2560, "intermediate_size": 5120,
        "state_size": 128, "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "n_groups": 1,
        "use_bias": False, "use_conv_bias": True, "tie_word_embeddings": True,
        "time_step_limit": (0.0, float("inf")), "time_step_rank": "auto",
    },
    "bitnet": {
        "hidden_size": 2560, "intermediate_size": 6912, "num_attention_heads": 20,
        "num_key_value_heads": 5, "rms_norm_eps": 1e-5,
    },
    "qwen3_next": {
        "hidden_size": 2048, "intermediate_size": 2048, "num_experts": 8,
        "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False,
        "max_position_embeddings": 8192, "norm_topk_prob": True, "partial_rotary_factor": 0.25,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
        "linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    },
}  # fmt: skip
"""Sizes of layers that were published, and a few layers."""

SMALL: dict[str, dict[str, Any]] = {
    "rwkv7": {"hidden_size": 128, "intermediate_size": 128},
    "mamba2": {"num_heads": 4, "hidden_size": 128, "intermediate_size": 256},
    "bitnet": {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4,
               "num_key_value_heads": 2},
    "qwen3_next": {"hidden_size": 128, "num_attention_heads": 2, "head_dim": 64,
                   "linear_num_value_heads": 4, "linear_num_key_heads": 2,
                   "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64},
}  # fmt: skip

LIMIT = 1e-3
"""Of the norms of a difference of logits and of the logits."""


class Counting:
    """Part of a backend that notes the names of mlx-lm's kernels that it runs."""

    make: Callable[..., Any]

    def __init__(self) -> None:
        self.launched: set[str] = set()

    def metal_kernel(self) -> Callable[..., Any]:
        """Return what makes kernels that note their names when they run."""
        return self.made

    def made(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 (as mx.fast.metal_kernel)
        """Return such a kernel."""
        kernel = self.make(*args, **options)
        name = args[0] if args else options["name"]

        def call(**given: Any) -> Any:  # noqa: ANN401
            self.launched.add(name)
            return kernel(**given)

        return call


class CountingCuda(Counting, CudaBackend):
    """The backend `cuda`."""

    make = staticmethod(tg.cuda.metal_kernel)


class CountingEmulator(Counting, EmulatorBackend):
    """The emulator for mlx-lm's kernels, and MLX for everything else."""

    capabilities = replace(EmulatorBackend.capabilities, modelled=False)
    make = staticmethod(emulator.metal_kernel)


BACKENDS: dict[str, Callable[[], Any]] = {"cuda": CountingCuda, "emulator": CountingEmulator}


def unpacked(layer: Any, x: mx.array, weight: mx.array) -> mx.array:  # noqa: ANN401 (mlx-lm's own)
    """Return what BitNet's kernel returns, by MLX's ops."""
    parts = [((weight >> shift) & 3).astype(mx.float32) - 1 for shift in (0, 2, 4, 6)]
    product: mx.array = x @ mx.concatenate(parts, axis=0).T
    scale: mx.array = layer.weight_scale
    return product / scale if layer.invert_weight_scales else product * scale


@contextmanager
def bitnet_unpacked() -> Iterator[None]:
    """Let BitNet, which mlx-lm computes by nothing but its kernel, unpack its weights."""
    layer = importlib.import_module("mlx_lm.models.bitlinear_layers").BitLinear
    own = layer.execute_matmul_kernel
    layer.execute_matmul_kernel = unpacked
    try:
        yield
    finally:
        layer.execute_matmul_kernel = own


def build(name: str, small: bool) -> Any:  # noqa: ANN401 (mlx-lm's own)
    """Return a model with random weights."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(7)
    config = {"model_type": name, **COMMON, **MODELS[name], **(SMALL[name] if small else {})}
    model = module.Model(module.ModelArgs.from_dict(config))
    model.update(tree_map_with_path(_drawn, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model


def _drawn(path: str, array: mx.array) -> mx.array:
    if array.dtype == mx.uint8:
        codes = [mx.random.randint(0, 3, array.shape) << shift for shift in (0, 2, 4, 6)]
        return mx.stack(codes).sum(axis=0).astype(mx.uint8)
    if path.endswith("weight_scale"):
        return mx.full(array.shape, 0.02)
    # Of zeros, recurrences would stay zero.
    return array if mx.any(array) else 0.1 * mx.random.normal(array.shape)


def run(model: Any, tokens: mx.array, prompt: int) -> tuple[float, float, mx.array]:  # noqa: ANN401
    """Return the seconds of a prompt and of a token after it, and all logits."""
    cache = model.make_cache() if hasattr(model, "make_cache") else None
    if cache is None:
        cache = importlib.import_module("mlx_lm.models.cache").make_prompt_cache(model)
    start = time.perf_counter()
    found = [model(tokens[:, :prompt], cache=cache)]
    mx.eval(found)
    first, seconds = time.perf_counter() - start, []
    for at in range(prompt, tokens.shape[1]):
        start = time.perf_counter()
        found.append(model(tokens[:, at : at + 1], cache=cache))
        mx.eval(found[-1])
        seconds.append(time.perf_counter() - start)
    return first, median(seconds), mx.concatenate(found, axis=1)


def compared(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return times of a model patched and not, and how its logits agree."""
    model, backend = build(name, options.small), BACKENDS[options.backend]()
    count = options.prompt + options.tokens
    tokens = mx.random.randint(0, COMMON["vocab_size"], (1, count), key=mx.random.key(3))
    problems: list[object] = []
    with tg.use_backend(backend), integration.patched(model):
        with noting_problems(problems.append):
            run(model, tokens, options.prompt)
        prefill, token, got = run(model, tokens, options.prompt)
    # Its kernel has an op of this library in its place.
    deltas = {"gated_delta_update" for one in problems if isinstance(one, DeltaProblem)}
    kernels = sorted(backend.launched | deltas)
    backend.launched.clear()
    with bitnet_unpacked():
        run(model, tokens, options.prompt)
        plain_prefill, plain_token, wanted = run(model, tokens, options.prompt)
    assert not backend.launched, "a model that is not patched runs no kernel"
    return {
        "model": name, "kernels": kernels,
        "error": float(mx.linalg.norm(got - wanted) / mx.linalg.norm(wanted)),
        "prefill_ms": round(prefill * 1e3, 2), "plain_prefill_ms": round(plain_prefill * 1e3, 2),
        "token_ms": round(token * 1e3, 3), "plain_token_ms": round(plain_token * 1e3, 3),
    }  # fmt: skip


def main() -> int:
    """Compare the models that are asked for; 1 if logits differ or a model runs no kernel."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="models whose name has the word")
    parser.add_argument("--backend", choices=tuple(BACKENDS), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny layers")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens after it")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    require(parser, options.backend)
    rows = []
    for name in MODELS:
        if options.only in name:
            rows.append(compared(name, options))
            print(rows[-1], flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(not rows or any(one["error"] > LIMIT or not one["kernels"] for one in rows))


if __name__ == "__main__":
    raise SystemExit(main())
