"""Models of mlx-lm with layers of real sizes on a GPU: tokens a second, patched and not.

    python bench/cuda_model.py --json model.json
    python bench/cuda_model.py --only moe --layers 2 --prompt 64 --tokens 4

Weights are random; a few layers of each model stand for all. One form is quantized to four bits,
with bfloat16 activations; the mixed one has bfloat16 weights and float32 activations. The patched
model's problems are recorded and their candidates timed first, as `mlx-tilegemm tune` does, but of
each kernel only the best few by the model of an Apple chip. Each side then reads a prompt and
generates so many tokens, in turns, with a new cache each time; medians count. The times of
candidates are kept where `mlx-tilegemm tune` keeps its own, in a folder that `XDG_STATE_HOME` may
name. Both get the same tokens. With random weights, rounding alone makes a router choose other
experts here and there: the logits of both sides are therefore also held against those of the model
in float32.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from backend import require
from cuda_sweep import compile_all, environment, fastest, plans, timed_problem
from mlx.utils import tree_map_with_path
from mlx_lm.models.cache import make_prompt_cache

import mlx_tilegemm as tg
from mlx_tilegemm.assurance import measurements
from mlx_tilegemm.assurance.measurements import TextTiming
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.core.render import text_name
from mlx_tilegemm.dispatch import Timing
from mlx_tilegemm.families import family_of
from mlx_tilegemm.integrations import mlx_lm as integration

MOE = {
    "vocab_size": 32768,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
    "norm_topk_prob": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        **MOE,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
    },
    "qwen3_next": {
        **MOE,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_value_heads": 32,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "partial_rotary_factor": 0.25,
    },
}
"""Sizes of the published 30B and 80B models, but for the vocabulary and the number of experts."""

FORMS = ("4-bit", "mixed")
CANDIDATES = 3
REPEATS = 9


def build(name: str, form: str, layers: int, **changes: int) -> Any:  # noqa: ANN401 (mlx-lm's own)
    """Return a model with random weights in a form."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(7)
    config = {"model_type": name, **MODELS[name], "num_hidden_layers": layers, **changes}
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if form == "4-bit":
        nn.quantize(model, group_size=64, bits=4)
    else:
        # Embeddings and norms say what the activations are.
        model.update(tree_map_with_path(_widened, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model


def _widened(path: str, array: mx.array) -> mx.array:
    return array.astype(mx.float32) if "norm" in path or "embed_tokens" in path else array


def prefilled(model: Any, prompt: mx.array) -> tuple[float, mx.array, Any]:  # noqa: ANN401
    """Return the seconds of a prompt, the logits of its last token, and the cache."""
    cache = make_prompt_cache(model)
    start = time.perf_counter()
    logits = model(prompt, cache=cache)[:, -1]
    mx.eval(logits, [one.state for one in cache])
    return time.perf_counter() - start, logits, cache


def decoded(model: Any, tokens: mx.array, cache: Any) -> tuple[float, mx.array]:  # noqa: ANN401
    """Return the seconds of tokens that follow, one by one, and their logits."""
    found = []
    start = time.perf_counter()
    for at in range(tokens.shape[1]):
        # As mlx-lm does: the next token's graph is built while this one's runs.
        found.append(model(tokens[:, at : at + 1], cache=cache)[:, -1])
        mx.async_eval(found[-1])
    mx.eval(found)
    return time.perf_counter() - start, mx.stack(found, axis=1)


def run(model: Any, prompt: mx.array, tokens: mx.array) -> tuple[float, float, mx.array]:  # noqa: ANN401
    """Return the seconds of a prompt and of the tokens after it, and all logits."""
    first, logits, cache = prefilled(model, prompt)
    then, more = decoded(model, tokens, cache)
    return first, then, mx.concatenate([logits[:, None], more], axis=1)


def asked_for(model: Any, prompt: mx.array, tokens: mx.array) -> list[Problem]:  # noqa: ANN401
    """Return the problems of a patched model that can be measured, each once."""
    with integration.patched(model), tg.record() as shapes:
        run(model, prompt, tokens[:, :1])
    alike = dict.fromkeys(one.alike().stored() for one in shapes.problems)
    return [one for one in alike if family_of(one).fallback(one) is not None]


def tune(problems: Sequence[Problem], jobs: int, seconds: float) -> int:
    """Time the best candidates of problems, keep the times, and return how many have some."""
    until = time.monotonic() + seconds
    compile_all(problems, CANDIDATES, jobs, until)
    file, done = measurements.open_file(), 0
    for problem in problems:
        if time.monotonic() > until or not plans(problem, 1):
            continue
        times, wrong = timed_problem(problem, CANDIDATES)
        if wrong:
            print(f"wrong: {problem}: {wrong}")
        file.write(measurements.key(problem), measurements.tuned(_timings(problem, times)))
        done += 1
    measurements.forget()
    forget_prepared()
    return done


def _timings(problem: Problem, times: dict[str, float]) -> list[TextTiming]:
    known = plans(problem, CANDIDATES)
    return [
        TextTiming(
            timing=Timing(candidate=name, **dict.fromkeys(("median", "low", "high"), us / 1e6)),
            text=text_name(known[name]) if name in known else "",
        )
        for name, us in fastest(problem, times).items()
    ]


def error(got: mx.array, wanted: mx.array) -> dict[str, float]:
    """Return how far logits are from others, and how often both choose the same token."""
    got, wanted = got.astype(mx.float32), wanted.astype(mx.float32)
    same = mx.argmax(got, axis=-1) == mx.argmax(wanted, axis=-1)
    return {
        "error": float(mx.linalg.norm(got - wanted) / mx.linalg.norm(wanted)),
        "same_token": float(mx.mean(same.astype(mx.float32))),
    }


def compared(
    name: str, form: str, options: argparse.Namespace, note: Callable[[str], None]
) -> dict[str, Any]:
    """Return tokens a second of a model, patched and not, and how its logits agree."""
    model = build(name, form, options.layers)
    prompt, tokens = (
        mx.random.randint(0, MODELS[name]["vocab_size"], (1, count), key=mx.random.key(count))
        for count in (options.prompt, options.tokens)
    )
    problems = asked_for(model, prompt, tokens)
    note(f"{name}, {form}: {len(problems)} problems")
    tuned = tune(problems, options.jobs, options.seconds)
    note(f"{name}, {form}: {tuned} problems timed")
    times: dict[str, list[tuple[float, float]]] = {"patched": [], "plain": []}
    logits = {}
    for turn in range(REPEATS + 1):
        for side in ("patched", "plain") if turn % 2 else ("plain", "patched"):
            if side == "patched":
                with integration.patched(model), tg.use_gradients(False):
                    *seconds, logits[side] = run(model, prompt, tokens)
            else:
                *seconds, logits[side] = run(model, prompt, tokens)
            # The first turn compiles kernels and fills caches.
            if turn:
                times[side].append((seconds[0], seconds[1]))
    model.set_dtype(mx.float32)
    *_, wide = run(model, prompt, tokens)
    return {
        "model": name,
        "form": form,
        "layers": options.layers,
        "problems": len(problems),
        "tuned": tuned,
        **_speeds(times, options.prompt, options.tokens),
        "of_each_other": error(logits["patched"], logits["plain"]),
        "of_float32": {side: error(one, wide) for side, one in logits.items()},
    }


def _speeds(
    times: dict[str, list[tuple[float, float]]], prompt: int, tokens: int
) -> dict[str, float]:
    found = {}
    for side, samples in times.items():
        first, then = (median(column) for column in zip(*samples, strict=True))
        found[f"prefill_{side}"] = round(prompt / first, 1)
        found[f"decode_{side}"] = round(tokens / then, 1)
    for phase in ("prefill", "decode"):
        found[f"{phase}_ratio"] = round(found[f"{phase}_patched"] / found[f"{phase}_plain"], 3)
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a table in Markdown."""
    lines = [
        "| model | form | prefill, tokens/s | plain | ratio | decode, tokens/s | plain | ratio "
        "| logits from plain MLX's | from float32's | plain MLX's from float32's |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {one['model']} | {one['form']} | {one['prefill_patched']} | {one['prefill_plain']} "
        f"| {one['prefill_ratio']} | {one['decode_patched']} | {one['decode_plain']} "
        f"| {one['decode_ratio']} | {one['of_each_other']['error']:.2g} "
        f"| {one['of_float32']['patched']['error']:.2g} "
        f"| {one['of_float32']['plain']['error']:.2g} |"
        for one in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Compare the models that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="models whose name has the word")
    parser.add_argument("--form", choices=FORMS, help="one form alone")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens generated")
    parser.add_argument("--jobs", type=int, default=8, help="processes that compile")
    parser.add_argument("--seconds", type=float, default=120, help="of timing a model's problems")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    require(parser, "cuda")
    rows: list[dict[str, Any]] = []
    for name in MODELS:
        for form in (options.form,) if options.form else FORMS:
            if options.only in name:
                rows.append(compared(name, form, options, lambda line: print(line, flush=True)))
                print(rows[-1], flush=True)
                if options.json:
                    kept = {"environment": environment(), "rows": rows}
                    options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
