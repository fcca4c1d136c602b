"""Train an MLP whose weights are float16 and whose activations are float32.

Two spirals are told apart by three layers of `mlx_tilegemm.nn.Linear`. The same model of
`mlx.nn.Linear` is trained beside it: MLX casts the weights into float32 copies at every step, the
kernels read them as they are, and the losses agree.

    python examples/train_mlp.py
    python examples/train_mlp.py --backend mlx --steps 1000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import SGD

import mlx_tilegemm as tg

POINTS = 128
HIDDEN = 32


def spirals() -> tuple[mx.array, mx.array]:
    """Return points [2 * POINTS, 2] on two spirals and the number of the spiral of each."""
    turn = mx.linspace(0.3, 1.0, POINTS) * 7
    arm = mx.stack([turn * mx.cos(turn), turn * mx.sin(turn)], axis=-1) / 7
    points = mx.concatenate([arm, -arm]) + 0.02 * mx.random.normal((2 * POINTS, 2))
    return points, mx.repeat(mx.arange(2), POINTS)


def mlp(linear: type[nn.Linear]) -> nn.Module:
    """Return an MLP of layers of class ``linear``; the weights of the first two are float16."""
    mx.random.seed(1)
    layers = [linear(2, HIDDEN), linear(HIDDEN, HIDDEN), linear(HIDDEN, 2)]
    for layer in layers[:2]:
        layer.weight = layer.weight.astype(mx.float16)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def train(model: nn.Module, steps: int, show: Callable[[int, float], None]) -> tuple[float, float]:
    """Return the last loss and the share of points that the trained model gets right."""
    points, labels = spirals()

    def loss_of(model: nn.Module) -> mx.array:
        return nn.losses.cross_entropy(model(points), labels, reduction="mean")

    step = nn.value_and_grad(model, loss_of)
    optimizer = SGD(learning_rate=0.5, momentum=0.9)
    loss = mx.array(0.0)
    for number in range(1, steps + 1):
        loss, gradients = step(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        if number % 25 == 0:
            show(number, float(loss))
    right = mx.mean(mx.argmax(model(points), axis=-1) == labels)
    return float(loss), float(right)


def main(arguments: Sequence[str] | None = None) -> float:
    """Train both models; return the difference of their last losses."""
    parser = argparse.ArgumentParser(description="Train a mixed-dtype MLP.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--backend", default="auto", help="auto, metal, emulator or mlx")
    options = parser.parse_args(arguments)

    with tg.use_backend(options.backend):
        points, weight = spirals()[0], mlp(tg.nn.Linear).layers[0].weight
        explanation = tg.explain(tg.matmul, points, weight, transpose_b=True)
        print(f"backend {explanation.backend}: {explanation.backend_reason}")
        print(f"route   {explanation.route}: {explanation.reason}\n")
        loss, right = train(
            mlp(tg.nn.Linear),
            options.steps,
            lambda number, loss: print(f"step {number:4}  loss {loss:.4f}"),
        )
    reference, _ = train(mlp(nn.Linear), options.steps, lambda *_: None)
    print(f"\nloss {loss:.4f}, {right:.1%} of the points right; loss with mlx.nn {reference:.4f}")
    return abs(loss - reference)


if __name__ == "__main__":
    main()
