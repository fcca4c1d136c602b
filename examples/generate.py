"""Generate text with a tiny language model of mlx-lm, routed through mlx_tilegemm.

The model is mlx-lm's Llama, small enough to learn one proverb by heart in seconds. Its linear
layers are then cast to bfloat16 while activations stay float32, the model is patched with one
line, and what it generates is compared with what it generated before.

    scripts/setup integrations
    .venv/bin/python examples/generate.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Adam
from mlx_lm.generate import generate_step
from mlx_lm.models.llama import Model, ModelArgs

import mlx_tilegemm as tg

TEXT = "well begun is half done, and half done is not done at all. "
LETTERS = sorted(set(TEXT))


def tokens_of(text: str) -> mx.array:
    """Return the number of each letter."""
    return mx.array([LETTERS.index(letter) for letter in text])


def small_llama() -> Model:
    """Return a Llama of two layers with random weights."""
    mx.random.seed(0)
    return Model(
        ModelArgs(
            model_type="llama",
            vocab_size=len(LETTERS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
        )
    )


def learn(model: Model, steps: int) -> float:
    """Train ``model`` to continue the text by MLX's own ops; return the last loss."""
    tokens = tokens_of(TEXT * 2)[None]

    def loss_of(model: Model) -> mx.array:
        return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], reduction="mean")

    step = nn.value_and_grad(model, loss_of)
    optimizer = Adam(learning_rate=3e-3)
    loss = mx.array(0.0)
    for _ in range(steps):
        loss, gradients = step(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
    return float(loss)


def continued(model: Model, prompt: str, length: int) -> str:
    """Return ``length`` letters that the model generates after ``prompt``."""
    steps = generate_step(tokens_of(prompt), model, max_tokens=length)
    return "".join(LETTERS[int(token)] for token, _ in steps)


def main(arguments: Sequence[str] | None = None) -> bool:
    """Train, patch and generate; return whether the patched model generates the same text."""
    parser = argparse.ArgumentParser(description="Generate with a patched model of mlx-lm.")
    parser.add_argument("--steps", type=int, default=150, help="steps of training")
    parser.add_argument("--length", type=int, default=48, help="letters to generate")
    parser.add_argument("--backend", default="auto", help="auto, metal, emulator or mlx")
    options = parser.parse_args(arguments)

    model = small_llama()
    print(f"loss after {options.steps} steps: {learn(model, options.steps):.4f}")
    for _, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.set_dtype(mx.bfloat16)

    prompt = "well begun "
    before = continued(model, prompt, options.length)
    print(tg.integrations.mlx_lm.patch(model))
    with tg.use_backend(options.backend):
        after = continued(model, prompt, options.length)
    print(f"mlx:          {prompt}{before}\nmlx_tilegemm: {prompt}{after}")
    return before == after


if __name__ == "__main__":
    main()
