"""The demonstration behind ``mlx-tilegemm demo``: two calls, explained, run and checked."""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import mlx.core as mx

from ..backends import use_backend, use_runner
from ..backends.rounding import rounds_float32
from ..call.explanation import Explanation, explain
from ..core.dtypes import FLOAT32, TF32_ROUNDOFF
from ..dispatch import MLX
from ..ops import attention_chain, matmul

_SEED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call, what it should give, and how far from that rounding may take it.

    Attributes:
        title: What the call is.
        op: The public op.
        operands: Its arrays.
        options: Its keyword arguments.
        expected: The result by MLX's float32 ops on the CPU.
        bound: Largest difference, element by element, that rounding in both explains.
        rounded_bound: Likewise for MLX's own ops where they round float32 factors to TF32.
    """

    title: str
    op: Callable[..., mx.array]
    operands: tuple[mx.array, ...]
    options: dict[str, Any]
    expected: mx.array
    bound: mx.array
    rounded_bound: mx.array


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a case.

    Attributes:
        error: Largest difference from the expected result.
        share: Largest difference as a share of its bound; at most 1 in a right result.
    """

    error: float
    share: float

    @property
    def passed(self) -> bool:
        """Whether every element is within its bound; a NaN is not."""
        return self.share <= 1.0


def run_demo(options: argparse.Namespace) -> int:
    """Run every case, show it, and say whether all results were within their bounds."""
    with use_backend(options.backend) if options.backend else use_runner():
        return _run_cases(options)


def _run_cases(options: argparse.Namespace) -> int:
    machine = _machine()
    if not options.json:
        print(f"machine  {machine}", flush=True)
    shown = []
    for case in cases():
        explanation = explain(case.op, *case.operands, **case.options)
        rounds = explanation.route == MLX and rounds_float32()
        outcome = run(case, case.rounded_bound if rounds else case.bound)
        shown.append(_plain(case, explanation, outcome))
        if not options.json:
            print("\n".join(_lines(case, explanation, outcome, rounds)), flush=True)
    if options.json:
        print(json.dumps({"machine": machine, "cases": shown}, indent=2))
    return 0 if all(one["passed"] for one in shown) else 1


def _machine() -> str:
    device = mx.device_info().get("device_name", "unknown device")
    return (
        f"{platform.system()} {platform.machine()}, {device}, "
        f"Python {platform.python_version()}, mlx {version('mlx')}"
    )


def _lines(case: Case, explanation: Explanation, outcome: Outcome, rounds: bool) -> list[str]:
    return [
        "",
        case.title,
        str(explanation).split("\n\n")[0],
        f"  error    {outcome.error:.2e} at most against mx.matmul in float32 on the CPU; "
        f"{outcome.share:.1%} of what rounding{' to TF32' * rounds} allows",
        f"  {'right' if outcome.passed else 'WRONG'}",
    ]


def _plain(case: Case, explanation: Explanation, outcome: Outcome) -> dict[str, object]:
    # JSON has no NaN.
    error, share = (x if math.isfinite(x) else str(x) for x in (outcome.error, outcome.share))
    return {
        "title": case.title,
        "passed": outcome.passed,
        "error": error,
        "share": share,
        "explanation": explanation.to_dict(),
    }


def run(case: Case, bound: mx.array) -> Outcome:
    """Make the call and hold its result to a bound."""
    result = case.op(*case.operands, **case.options).astype(mx.float32)
    difference = mx.abs(result - case.expected)
    return Outcome(
        error=mx.max(difference).item(),  # type: ignore[arg-type]
        share=mx.max(difference / bound).item(),  # type: ignore[arg-type]
    )


def cases() -> tuple[Case, ...]:
    """Return a linear layer of ragged sizes and a grouped-query attention, both of mixed dtypes."""
    # References come from the CPU: some GPUs multiply float32 in MLX's ops with less precision.
    with mx.stream(mx.cpu):
        return (_layer_case(), _attention_case())


def _layer_case() -> Case:
    keys = mx.random.split(mx.random.key(_SEED))
    x = mx.random.normal((100, 300), key=keys[0]).astype(mx.float16)
    weight = mx.random.normal((70, 300), scale=300**-0.5, key=keys[1])
    sizes = mx.matmul(mx.abs(x), mx.abs(weight).T)
    return Case(
        title="A linear layer: float16 activations times a float32 weight, ragged sizes",
        op=matmul,
        operands=(x, weight),
        options={"transpose_b": True},
        expected=mx.matmul(x, weight.T),
        bound=2 * _sum_error(300) * sizes,
        # TF32 holds the 11 bits of a float16.
        rounded_bound=(3 * _sum_error(300) + TF32_ROUNDOFF) * sizes,
    )


def _attention_case() -> Case:
    batch, heads, kv_heads, length, head_dim = 1, 4, 2, 90, 64
    keys = mx.random.split(mx.random.key(_SEED + 1), 3)
    q = mx.random.normal((batch, heads, length, head_dim), key=keys[0]).astype(mx.float16)
    k = mx.random.normal((batch, kv_heads, length, head_dim), key=keys[1]).astype(mx.bfloat16)
    v = mx.random.normal((batch, kv_heads, length, head_dim), key=keys[2])
    expected, bound, rounded_bound = _attention_reference(q, k, v)
    return Case(
        title="A causal attention: float16 queries, bfloat16 keys, float32 values, shared heads",
        op=attention_chain,
        operands=(q, k, v),
        options={"mask": "causal"},
        expected=expected,
        bound=bound,
        rounded_bound=rounded_bound,
    )


def _attention_reference(
    q: mx.array, k: mx.array, v: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the causal attention and its error bounds, without TF32 and with, by plain ops."""
    shared = q.shape[1] // k.shape[1]
    q, k, v = (x.astype(mx.float32) for x in (q, k, v))
    k, v = mx.repeat(k, shared, axis=1), mx.repeat(v, shared, axis=1)
    length, head_dim = q.shape[-2:]
    scale = head_dim**-0.5
    causal = mx.tril(mx.ones((length, length), dtype=mx.bool_))
    scores = mx.where(causal, scale * mx.matmul(q, k.swapaxes(-1, -2)), -mx.inf)
    weights = mx.softmax(scores, axis=-1)
    sizes = scale * mx.matmul(mx.abs(q), mx.abs(k).swapaxes(-1, -2))
    # An error d in the scores of a row is a relative error of at most 2d in its weights; then come
    # the roundings of exp, of both sums and of the division.
    score_error = _sum_error(head_dim + 4) * mx.max(sizes, axis=-1, keepdims=True)
    relative = 2 * score_error + 2 * _sum_error(length + 8)
    sizes = mx.matmul(weights, mx.abs(v))
    # float16 and bfloat16 are exact in TF32; weights and v are not.
    rounded = 3 * relative + 2.01 * TF32_ROUNDOFF
    return mx.matmul(weights, v), 2 * relative * sizes, rounded * sizes


def _sum_error(terms: int) -> float:
    """Return the relative error bound of a float32 sum of products with so many terms."""
    roundings = terms * FLOAT32.unit_roundoff
    return roundings / (1 - roundings)
