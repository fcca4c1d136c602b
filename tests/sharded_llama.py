"""A small Llama on one of several machines, and the same unsharded; writes what it finds as JSON.

Run by `mlx.launch`. The argument is a folder for a file of each machine's.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache

import mlx_tilegemm as tg

SECONDS = 240
"""Time after which a machine gives up: it may wait for another one that has failed."""

CONFIG = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": False,
}
PROMPT = mx.array([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]])


LARGER = {"hidden_size": 256, "intermediate_size": 256}
"""Sizes whose halves can be quantized in groups of 64."""


def build(**changes: int) -> Any:
    mx.random.seed(7)
    model = llama.Model(llama.ModelArgs.from_dict({**CONFIG, **changes}))
    model.eval()
    return model


def logits(model: Any) -> mx.array:
    """Return the logits of a prompt and of the token after it."""
    cache = make_prompt_cache(model)
    result = mx.concatenate([model(PROMPT, cache=cache), model(PROMPT[:, :1], cache=cache)], axis=1)
    mx.eval(result)
    return result


def gradients(model: Any) -> dict[str, Any]:
    """Return the gradients of what every machine holds whole."""

    def loss(tokens: mx.array) -> mx.array:
        return mx.mean(nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]))

    _, found = nn.value_and_grad(model, loss)(PROMPT)
    flat = dict(tree_flatten(found))
    whole = {name: one for name, one in flat.items() if "norm" in name or "embed" in name}
    mx.eval(whole)
    return whole


def error(got: mx.array, expected: mx.array) -> float:
    return float(mx.abs(got - expected).max() / mx.abs(expected).max())


def _rows(audit: tg.Audit) -> list[list[object]]:
    return [[row.path, row.primitive, row.served_by, row.flops] for row in audit.rows]


def of_quantized(group: mx.distributed.Group) -> tuple[int, float]:
    """Return how many layers of a quantized model are routed, and the error of its logits."""
    model = build(**LARGER)
    nn.quantize(model, group_size=64, bits=8)
    expected = logits(model)
    model.shard(group)
    report = tg.patch(model)
    with tg.use_backend("mlx"):
        got = logits(model)
    served = [one for one in report.replaced if one.op == "quantized_matmul"]
    return len(served), error(got, expected)


def main(folder: Path) -> None:
    group = mx.distributed.init(backend="ring", strict=True)
    model = build()
    expected, expected_gradients = logits(model), gradients(model)
    whole = tg.audit(model, PROMPT, chip="m1")
    model.shard(group)
    report = tg.patch(model)
    backend = "metal" if mx.metal.is_available() else "emulator"
    with tg.use_backend(backend), tg.use_kernel("any"):
        audit = tg.audit(model, PROMPT)
        got = logits(model)
    with tg.use_backend("mlx"):
        got_gradients = gradients(model)
    quantized, quantized_error = of_quantized(group)
    found = {
        "quantized": quantized,
        "quantized_error": quantized_error,
        "size": group.size(),
        "error": error(got, expected),
        "gradients": {
            name: error(got_gradients[name], one) for name, one in expected_gradients.items()
        },
        "replaced": [[one.path, one.layer, one.op] for one in report.replaced],
        "left_alone": [[one.layer, one.reason] for one in report.left_alone],
        "rows": _rows(audit),
        "served": audit.served,
        "whole": _rows(whole),
    }
    (folder / f"{group.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    signal.alarm(SECONDS)
    main(Path(sys.argv[1]))
