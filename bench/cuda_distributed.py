"""A Llama of mlx-lm sharded over GPUs and patched, against itself on one GPU: logits and time.

    mlx.launch --backend nccl -n 2 python bench/cuda_distributed.py --json distributed.json

Layers have the sizes of Llama 3 8B, random weights, and a few of them stand for all. Every machine
first runs the whole model, unpatched; then its part of the sharded one: unpatched, patched, and
patched with kernels in the place of all of MLX's ops that have one. Logits of a prompt and of the
tokens after it have to agree to rounding, and medians of a token's time are printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache

import mlx_tilegemm as tg

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32768,
    "hidden_size": 4096,
    "num_hidden_layers": 4,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
PROMPT, TOKENS = 128, 32


def build(dtype: mx.Dtype, **changes: int) -> Any:  # noqa: ANN401 (mlx-lm's own)
    """Return the model with the same random weights on every machine."""
    mx.random.seed(7)
    model = llama.Model(llama.ModelArgs.from_dict({**CONFIG, **changes}))
    model.set_dtype(dtype)
    model.eval()
    mx.eval(model.parameters())
    return model


def run(model: Any, vocabulary: int) -> tuple[mx.array, float]:  # noqa: ANN401
    """Return the logits of a prompt and of tokens after it, and the median seconds of a token."""
    tokens = mx.random.randint(0, vocabulary, (1, PROMPT + TOKENS), key=mx.random.key(3))
    cache = make_prompt_cache(model)
    found = [model(tokens[:, :PROMPT], cache=cache)]
    mx.eval(found)
    seconds = []
    for at in range(PROMPT, PROMPT + TOKENS):
        start = time.perf_counter()
        found.append(model(tokens[:, at : at + 1], cache=cache))
        mx.eval(found[-1])
        seconds.append(time.perf_counter() - start)
    return mx.concatenate(found, axis=1).astype(mx.float32), median(seconds[4:])


@contextmanager
def serving(model: Any, way: str) -> Iterator[int]:  # noqa: ANN401
    """Route a model one way or another, and yield how many of its parts are routed."""
    if way == "plain":
        yield 0
        return
    chosen = tg.use_kernel("any") if way == "any kernel" else nullcontext()
    with tg.integrations.mlx_lm.patched(model) as report, chosen:
        yield len(report.replaced)


def main() -> int:
    """Compare both, and print and write what one machine finds; 1 if logits differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--via", default="nccl", help="of MLX's ways to communicate")
    parser.add_argument("--small", action="store_true", help="tiny layers, to try this on a CPU")
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args()
    changes = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 64}
    group = mx.distributed.init(backend=options.via, strict=True)
    found: dict[str, Any] = {"machines": group.size(), "rows": []}
    for dtype, limit in ((mx.float32, 1e-3), (mx.bfloat16, 5e-2)):
        model = build(dtype, **(changes if options.small else {}))
        vocabulary = model.args.vocab_size
        run(model, vocabulary)
        expected, alone = run(model, vocabulary)
        model.shard(group)
        for way in ("plain", "patched", "any kernel"):
            with serving(model, way) as routed:
                run(model, vocabulary)
                got, together = run(model, vocabulary)
            error = float(mx.linalg.norm(got - expected) / mx.linalg.norm(expected))
            row = {
                "dtype": str(dtype), "way": way, "routed": routed, "error": error,
                "limit": limit, "one_ms": alone * 1e3, "all_ms": together * 1e3,
            }  # fmt: skip
            found["rows"].append(row)
            if group.rank() == 0:
                print(row, flush=True)
    if group.rank() == 0 and options.json:
        found["device"] = str(mx.device_info().get("device_name", ""))
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(row["error"] > row["limit"] for row in found["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
