"""Ops of this library on MLX's own ops against plain MLX, on the CPU or wherever MLX runs.

    python bench/mlx_route.py                   # prints
    python bench/mlx_route.py decode causal     # those whose titles have one of the words
    python bench/mlx_route.py --write           # also writes bench/results/mlx-route.md

Where no Metal GPU is, MLX's own ops serve every call. What the library puts around them should
cost nothing: each problem is computed by `use_backend("mlx")` and as one would write it for MLX,
with the same dtype of the result, in interleaved rounds. The figures are the time of plain MLX over
ours, round by round, with quartiles; 1 is as fast, above 1 ours is faster. A sample repeats a call
until it takes 5 ms and waits once. On a CPU the clock is the time that the process, with all its
threads, was running: other programs then count less than by the clock on the wall.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

import mlx_tilegemm as tg
from mlx_tilegemm.assurance.tuning.measure import (
    Effort,
    Launches,
    Spread,
    Wait,
    Work,
    measure,
    spread,
)

RESULT = Path(__file__).parent / "results" / "mlx-route.md"
LIMIT = 0.95
"""Plain MLX over ours, at least."""

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16
fast = mx.fast.scaled_dot_product_attention
Call = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A problem.

    Attributes:
        title: What it is.
        ours: The op of this library.
        plain: The same by plain MLX.
        operands: Their arrays.
        rounds_scores: Plain MLX rounds the scores to 16 bits here, which ours does not.
    """

    title: str
    ours: Call
    plain: Call
    operands: tuple[mx.array, ...]
    rounds_scores: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of a case, times in microseconds."""

    title: str
    ours: Spread
    plain: Spread
    ratio: Spread
    rounds_scores: bool

    @property
    def passed(self) -> bool:
        """Whether ours takes no longer, to five per cent."""
        return self.ratio.median >= LIMIT


def arrays(*specs: tuple[tuple[int, ...], mx.Dtype]) -> tuple[mx.array, ...]:
    """Return random arrays of shapes and dtypes."""
    made = tuple(mx.random.normal(shape).astype(dtype) for shape, dtype in specs)
    mx.eval(*made)
    return made


def with_gradients(call: Call) -> Call:
    """Return the gradients of all operands of a call's sum."""

    def gradients(*operands: mx.array) -> list[mx.array]:
        def total(*given: mx.array) -> list[mx.array]:
            return [call(*given).sum()]

        return mx.vjp(total, [*operands], [mx.ones(())])[1]

    return gradients


def linear_of_ours(x: mx.array, w: mx.array) -> mx.array:
    """Return a linear layer's product."""
    return tg.matmul(x, w, transpose_b=True)


def linear_of_mlx(x: mx.array, w: mx.array) -> mx.array:
    """Return what `nn.Linear` does."""
    return x @ w.T


def products() -> Iterator[Case]:
    """Yield products and sums."""

    def linear(title: str, m: int, k: int, n: int, x: mx.Dtype, w: mx.Dtype) -> Case:
        return Case(
            title=title,
            ours=linear_of_ours,
            plain=linear_of_mlx,
            operands=arrays(((m, k), x), ((n, k), w)),
        )

    yield Case(
        title="product 512x512x512, float32",
        ours=tg.matmul,
        plain=mx.matmul,
        operands=arrays(((512, 512), F32), ((512, 512), F32)),
    )
    yield Case(
        title="16 products 64x256x64, float32",
        ours=tg.matmul,
        plain=mx.matmul,
        operands=arrays(((16, 64, 256), F32), ((16, 256, 64), F32)),
    )
    yield linear("linear 128x1024x1024, float32", 128, 1024, 1024, F32, F32)
    yield linear("linear 128x512x512, bfloat16", 128, 512, 512, BF16, BF16)
    yield linear("linear 128x1024x1024, float16 x float32", 128, 1024, 1024, F16, F32)
    yield linear("linear 128x1024x1024, float16 x bfloat16", 128, 1024, 1024, F16, BF16)
    yield linear("linear of one row 1x4096x4096, float32", 1, 4096, 4096, F32, F32)
    yield linear("tiny linear 8x32x32, float32", 8, 32, 32, F32, F32)
    layer = tg.nn.Linear(32, 32)
    mx.eval(layer["weight"], layer["bias"])
    yield Case(
        title="tiny layer 8x32x32 with bias, float32",
        ours=layer,
        plain=partial(nn.Linear.__call__, layer),
        operands=arrays(((8, 32), F32)),
    )
    yield Case(
        title="linear with bias 128x1024x1024, float32",
        ours=lambda c, x, w: tg.addmm(c, x, w, transpose_b=True),
        plain=lambda c, x, w: mx.addmm(c, x, w.T),
        operands=arrays(((1024,), F32), ((128, 1024), F32), ((1024, 1024), F32)),
    )
    yield Case(
        title="0.5 a b + 2 c, 256x1024x512, float32",
        ours=lambda c, a, b: tg.addmm(c, a, b, 0.5, 2.0),
        plain=lambda c, a, b: mx.addmm(c, a, b, 0.5, 2.0),
        operands=arrays(((256, 512), F32), ((256, 1024), F32), ((1024, 512), F32)),
    )
    yield Case(
        title="linear 128x512x512 with gradients, float32",
        ours=with_gradients(linear_of_ours),
        plain=with_gradients(linear_of_mlx),
        operands=arrays(((128, 512), F32), ((512, 512), F32)),
    )


def attentions() -> Iterator[Case]:
    """Yield attentions."""

    def attention(
        title: str,
        shape: tuple[int, int, int, int, int, int],
        types: tuple[mx.Dtype, mx.Dtype, mx.Dtype] = (F32, F32, F32),
        *,
        mask: mx.array | Literal["causal"] | None = None,
        window: int | None = None,
        rounds_scores: bool = False,
    ) -> Case:
        batch, heads, kv_heads, q_len, kv_len, dim = shape
        shapes = [(batch, heads, q_len, dim), *[(batch, kv_heads, kv_len, dim)] * 2]
        plain_mask = mask if window is None else window_mask(q_len, kv_len, window)

        def ours(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            return tg.attention_chain(q, k, v, mask=mask, window=window)

        def plain(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            return fast(q, k, v, scale=dim**-0.5, mask=plain_mask)

        return Case(
            title=title,
            ours=ours,
            plain=plain,
            operands=arrays(*zip(shapes, types, strict=True)),
            rounds_scores=rounds_scores,
        )

    yield attention("attention 8x256x64, float32", (1, 8, 8, 256, 256, 64))
    yield attention("causal 8x256x64, float32", (1, 8, 8, 256, 256, 64), mask="causal")
    yield attention("causal 8 on 2 x256x64, float32", (1, 8, 2, 256, 256, 64), mask="causal")
    mask = mx.random.uniform(shape=(256, 256)) < 0.7
    yield attention("bool mask 8x256x64, float32", (1, 8, 8, 256, 256, 64), mask=mask)
    yield attention(
        "window of 64, 8x256x64, float32", (1, 8, 8, 256, 256, 64), mask="causal", window=64
    )
    yield attention("decode 16 on 4 x2048x128, float32", (1, 16, 4, 1, 2048, 128))
    yield attention("tiny attention 2x16x16, float32", (1, 2, 2, 16, 16, 16))
    half, bfloat = (F16, F16, F16), (BF16, BF16, BF16)
    yield attention(
        "causal 8x256x64, float16", (1, 8, 8, 256, 256, 64), half, mask="causal", rounds_scores=True
    )
    yield attention(
        "causal 8x256x64, bfloat16",
        (1, 8, 8, 256, 256, 64),
        bfloat,
        mask="causal",
        rounds_scores=True,
    )
    mixed = (F16, BF16, F32)
    yield attention(
        "causal 8x256x64, float16, bfloat16, float32", (1, 8, 8, 256, 256, 64), mixed, mask="causal"
    )
    q = arrays(*[((1, 8, 128, 64), F32)] * 3)
    yield Case(
        title="attention 8x128x64 with gradients, float32",
        ours=with_gradients(tg.attention_chain),
        plain=with_gradients(partial(fast, scale=0.125)),
        operands=q,
    )
    yield Case(
        title="attention and its log-sum-exp 8x256x64, float32",
        ours=lambda q, k, v: tg.attention_chain(q, k, v, return_lse=True),
        plain=with_log_sum_exp,
        operands=arrays(*[((1, 8, 256, 64), F32)] * 3),
    )


def window_mask(rows: int, columns: int, window: int) -> mx.array:
    """Return the mask of a window, which models make once for all layers."""
    places = mx.arange(columns - rows, columns)[:, None] - mx.arange(columns)
    mask = (places >= 0) & (places < window)
    mx.eval(mask)
    return mask


def with_log_sum_exp(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
    """Return an attention and its log-sum-exp as MLX has them."""
    scores = 0.125 * q @ k.swapaxes(-1, -2)
    return mx.softmax(scores, axis=-1) @ v, mx.logsumexp(scores, axis=-1)


PENDING_BYTES = 1 << 28
"""Size of the results that wait for each other in one sample, at most."""


def repeated(call: Callable[[], mx.array | Sequence[mx.array]]) -> Launches:
    """Return a function that makes a call so many times and lets results pile up."""

    def make(count: int, work: Work | None) -> Wait:
        waiting = [] if work is None else [work()]
        pending = 0
        for _ in range(count):
            found = call()
            outputs = (found,) if isinstance(found, mx.array) else tuple(found)
            waiting += outputs
            pending += sum(one.nbytes for one in outputs)
            if pending >= PENDING_BYTES:
                mx.async_eval(*waiting)
                waiting, pending = waiting[-1:], 0
        mx.async_eval(*waiting)
        return partial(mx.eval, *waiting)

    return make


def compare(case: Case, effort: Effort) -> Result:
    """Time both sides of a case."""
    calls = {"ours": case.ours, "plain": case.plain}
    ready = {name: repeated(partial(call, *case.operands)) for name, call in calls.items()}
    on_cpu = mx.default_device().type == mx.cpu
    samples = measure(ready, time.process_time if on_cpu else time.perf_counter, effort)
    ratios = [plain / ours for ours, plain in zip(samples["ours"], samples["plain"], strict=True)]
    return Result(
        title=case.title,
        ours=spread([1e6 * x for x in samples["ours"]]),
        plain=spread([1e6 * x for x in samples["plain"]]),
        ratio=spread(ratios),
        rounds_scores=case.rounds_scores,
    )


def row(result: Result) -> str:
    """Return a line of the table."""
    ratio = f"{result.ratio.median:.3f} ({result.ratio.low:.3f} to {result.ratio.high:.3f})"
    title = result.title + " [1]" * result.rounds_scores
    remark = "" if result.passed else "slower"
    return (
        f"| {title} | {result.ours.median:.0f} | {result.plain.median:.0f} | {ratio} | {remark} |"
    )


def document(results: Sequence[Result], options: argparse.Namespace) -> str:
    """Return the page that is kept under bench/results."""
    passed = sum(result.passed for result in results)
    lines = "\n".join(map(row, results))
    device = mx.device_info().get("device_name", "unknown device")
    return f"""# MLX's route against plain MLX

Measured on {platform.system()} {platform.machine()}, {device}, default device
{mx.default_device().type.name}, Python {platform.python_version()}, mlx {version("mlx")}, on a
machine that other programs used at the same time: hence interleaved rounds, medians and quartiles.
Written by

    python bench/mlx_route.py --rounds {options.rounds} --write

{passed} of {len(results)} problems take at most five per cent longer than plain MLX. Microseconds a
call, and the time of plain MLX over ours; how is said at the top of the script.

| problem | ours | plain MLX | plain over ours | |
|---|---|---|---|---|
{lines}

[1] On a CPU plain MLX rounds the scores of these to 16 bits; ours keep them in float32.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print every case; 1 if one is slower than plain MLX."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="parts of titles; none for all problems")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("Expected at least one round.")
    effort = Effort(rounds=options.rounds, keep=float("inf"))
    mx.random.seed(7)
    results = []
    with tg.use_backend("mlx"):
        for case in (*products(), *attentions()):
            if not options.words or any(word in case.title for word in options.words):
                results.append(compare(case, effort))
                print(row(results[-1]), flush=True)
    if options.write:
        RESULT.write_text(document(results, options), encoding="utf-8")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
