"""Account for the products of real models: which this library serves, in bfloat16 and in 4 bits.

    python bench/audit.py                     # print the table
    python bench/audit.py --only gpt-oss      # only models whose names contain a word
    python bench/audit.py --write             # write bench/results/audit.md

Models are mlx-lm's, of their published sizes, with weights that are never computed. What serves a
product is what would be chosen on the chip; nothing here ran on a GPU.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import mlx_tilegemm as tg
from mlx_tilegemm.integrations import mlx_lm as integration
from mlx_tilegemm.layers.audit import Audit, AuditRow
from mlx_tilegemm.machine import chips

HERE = Path(__file__).parent
CHIP = "m4-max"
PROMPT = 512
FORMS = ("bf16", "4-bit")
CALLS = {"prompt": PROMPT, "step": 1}
"""Tokens of a call; a step comes without a cache, so that its attention is next to nothing."""

QWEN3_MOE = {
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3-8B": (
        "qwen3",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 36,
            "intermediate_size": 12288,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rms_norm_eps": 1e-6,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
        },
    ),
    "Qwen3-30B-A3B": (
        "qwen3_moe",
        QWEN3_MOE
        | {
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "rope_theta": 1e6,
            "max_position_embeddings": 40960,
        },
    ),
    "gpt-oss-20b": (
        "gpt_oss",
        {"num_hidden_layers": 24, "num_local_experts": 32, "num_experts_per_tok": 4},
    ),
    "Qwen3-Next-80B-A3B": (
        "qwen3_next",
        QWEN3_MOE
        | {
            "intermediate_size": 5120,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "linear_num_value_heads": 32,
            "linear_num_key_heads": 16,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "full_attention_interval": 4,
            "partial_rotary_factor": 0.25,
            "rope_theta": 1e7,
            "max_position_embeddings": 262144,
        },
    ),
    "DeepSeek-V3": (
        "deepseek_v3",
        {
            "vocab_size": 129280,
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "n_shared_experts": 1,
            "n_routed_experts": 256,
            "routed_scaling_factor": 2.5,
            "n_group": 8,
            "topk_group": 4,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 3,
        },
    ),
    "GLM-4.5-Air": (
        "glm4_moe",
        {
            "vocab_size": 151552,
            "hidden_size": 4096,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 46,
            "num_attention_heads": 96,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "n_shared_experts": 1,
            "n_routed_experts": 128,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "rope_scaling": None,
            "use_qk_norm": False,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "partial_rotary_factor": 0.5,
        },
    ),
}
"""mlx-lm's module of each model, and its published configuration."""


WHOLE = 0.9995
"""Share of a call's operations that is all of them, to the digit that the table shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One model in one form.

    Attributes:
        model: Its name.
        form: How its weights are stored.
        audits: What each call does.
    """

    model: str
    form: str
    audits: dict[str, Audit]


def build(name: str, form: str) -> nn.Module:
    """Return a model whose weights have no values."""
    module_name, config = CONFIGS[name]
    module = import_module(f"mlx_lm.models.{module_name}")
    arguments = module.ModelArgs.from_dict({"model_type": module_name, **config})
    model: nn.Module = module.Model(arguments)
    model.set_dtype(mx.bfloat16)
    if form == "4-bit":
        nn.quantize(model, 64, 4, class_predicate=_is_quantized)
    model.eval()
    return model


def _is_quantized(path: str, layer: nn.Module) -> bool:
    # Checkpoints keep what chooses experts, and columns that are not whole groups.
    small = path.rpartition(".")[2] in ("gate", "router", "shared_expert_gate")
    weight = getattr(layer, "weight", None)
    return (
        hasattr(layer, "to_quantized")
        and not small
        and isinstance(weight, mx.array)
        and weight.shape[-1] % 64 == 0
    )


def account(name: str, form: str, chip: str) -> Account:
    """Return what serves the products of a model's calls."""
    model = build(name, form)
    integration.patch(model)
    audits = {
        call: tg.audit(model, tg.ArraySpec(shape=(1, tokens), dtype=mx.int32), chip=chip)
        for call, tokens in CALLS.items()
    }
    return Account(model=name, form=form, audits=audits)


def markdown(accounts: list[Account], chip: str) -> str:
    """Return all accounts as a page."""
    lines = [
        "# Products of real models",
        "",
        _short(accounts),
        "",
        f"Written by `bench/audit.py`, as chosen for {chip}: nothing here ran on a GPU. Models of",
        "their published sizes, every layer of them, with weights in bfloat16 or quantized by MLX",
        f"(affine, 4 bits, groups of 64). A prompt is {PROMPT} tokens; a step is one, without a",
        "cache. Served is the share of the floating point operations that kernels of this library",
        "run; taken is the share that calls its ops, which choose MLX's own where these are",
        "modelled to be faster.",
        "",
        "| model | weights | call | GFLOP | served | taken |",
        "|---|---|---|---|---|---|",
    ]
    for one in accounts:
        for call, found in one.audits.items():
            lines.append(
                f"| {one.model} | {one.form} | {call} | {found.flops / 1e9:.3g} "
                f"| {found.served:.1%} | {_taken(found):.1%} |"
            )
    lines += ["", "## The rest, and why", ""]
    for one in accounts:
        lines += _rest(one)
    return "\n".join(lines) + "\n"


def _short(accounts: list[Account]) -> str:
    """Say how much is served of every call, and of which least."""
    calls = [(one, call, found) for one in accounts for call, found in one.audits.items()]
    whole = sum(found.served >= WHOLE for _, _, found in calls)
    one, call, least = min(calls, key=lambda named: named[2].served)
    return (
        f"**Kernels of this library serve all but {1 - WHOLE:.2%} of the operations in {whole} of "
        f"{len(calls)} calls, and at least {least.served:.1%} in the others**, least in a {call} "
        f"of {one.model}, {one.form}."
    )


def _taken(found: Audit) -> float:
    taken = sum(row.flops or 0.0 for row in found.rows if row.primitive.islower())
    return taken / found.flops if found.flops else 0.0


def _rest(one: Account) -> Iterator[str]:
    for call, found in one.audits.items():
        shares: dict[tuple[str, str], float] = defaultdict(float)
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for row in found.rows:
            if not row.ours:
                shares[row.primitive, _why(row)] += row.flops or 0.0
                counts[row.primitive, _why(row)] += 1
        yield f"{one.model}, {one.form}, {call}:"
        yield ""
        for (primitive, why), flops in sorted(shares.items(), key=lambda pair: -pair[1]):
            share = f"{flops / found.flops:.2%}" if flops else "not counted"
            yield f"- {share}: {counts[primitive, why]} of {primitive}, because {why}"
        if not shares:
            yield "- nothing"
        yield ""


def _why(row: AuditRow) -> str:
    """Return the reason without what differs from size to size."""
    return row.reason.partition(" (")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--chip", default=CHIP)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    names = [name for name in CONFIGS if options.only in name]
    accounts = [account(name, form, options.chip) for name in names for form in FORMS]
    page = markdown(accounts, chips.get(options.chip).name)
    print(page)
    if options.write:
        (HERE / "results" / "audit.md").write_text(page)


if __name__ == "__main__":
    main()
