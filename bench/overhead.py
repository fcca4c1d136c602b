"""Python cost of a call, from its arguments to MLX's kernel call, against building it by hand.

Prints, for each op, the median and the spread of both over interleaved rounds, and their ratio. By
hand means: the same `mx.fast.metal_kernel` object, ready, called with inputs, shapes, dtypes, grid
and threadgroup that are ready too. With Metal the calls go to MLX as they are; elsewhere they are
made while MLX traces an export, where it builds the same graph node and runs nothing. Nothing is
evaluated on either.

Run as ``python bench/overhead.py [--rounds N] [--calls N]``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

import mlx_tilegemm as tg
from mlx_tilegemm import backends, ops
from mlx_tilegemm.backends.base import Executable
from mlx_tilegemm.plan import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call of an op."""

    title: str
    call: Callable[..., Any]
    operands: tuple[mx.array, ...]


class Recorder:
    """Stands in for a backend: compiles for Metal and keeps the launches it sees."""

    name = "metal"

    def __init__(self) -> None:
        self.launches: list[tuple[Executable, dict[str, Any]]] = []

    def compile(self, source: Source) -> Executable:
        kernel = backends.METAL.compile(source)

        def launch(**arguments: object) -> list[mx.array]:
            self.launches.append((kernel, arguments))
            return kernel(**cast(dict[str, Any], arguments))

        return launch


def cases() -> tuple[Case, ...]:
    """Return a product, one with an epilogue and an attention."""
    half = mx.zeros((100, 300), dtype=mx.float16)
    weight, bias = mx.zeros((70, 300)), mx.zeros((70,))
    q = mx.zeros((1, 8, 128, 64), dtype=mx.float16)
    k = mx.zeros((1, 2, 128, 64), dtype=mx.bfloat16)
    return (
        Case(
            title="matmul(a, b, transpose_b=True)",
            call=lambda a, b: tg.matmul(a, b, transpose_b=True),
            operands=(half, weight),
        ),
        Case(
            title="addmm(c, a, b, transpose_b=True, alpha=0.5)",
            call=lambda c, a, b: tg.addmm(c, a, b, transpose_b=True, alpha=0.5),
            operands=(bias, half, weight),
        ),
        Case(
            title='attention_chain(q, k, v, mask="causal")',
            call=lambda q, k, v: tg.attention_chain(q, k, v, mask="causal"),
            operands=(q, k, k),
        ),
    )


def measure(case: Case, rounds: int, calls: int) -> tuple[list[float], list[float]]:
    """Return microseconds a call of each round, through the op and by hand."""
    ours: list[float] = []
    by_hand: list[float] = []

    def traced(*operands: mx.array) -> mx.array:
        result, kernel, arguments = _recorded(case, operands)
        inputs = list(arguments.pop("inputs"))
        for _ in range(rounds):
            ours.append(_timed(lambda: case.call(*operands), calls))
            by_hand.append(_timed(lambda: kernel(inputs=inputs, **arguments), calls))
        return result

    if mx.metal.is_available():
        traced(*case.operands)
    else:
        mx.export_function(lambda _: None, traced, *case.operands)
    return ours, by_hand


def _recorded(
    case: Case, operands: tuple[mx.array, ...]
) -> tuple[mx.array, Executable, dict[str, Any]]:
    """Make the call once through a recorder, then again so that its own path is warm."""
    recorder = Recorder()
    _route_to(recorder)
    case.call(*operands)
    kernel, arguments = recorder.launches[0]
    _route_to(backends.METAL)
    case.call(*operands)
    with tg.use_gradients(False):  # as the result of an export has to be
        return case.call(*operands), kernel, dict(arguments)


def _route_to(backend: backends.Backend) -> None:
    route = backends.Route(backend=backend, reason="measured")
    # The route is still resolved on every call, as it is outside a measurement.
    ops.resolve = lambda stream=None: (backends.resolve(stream), route)[1]


def _timed(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls * 1e6


def _summary(samples: list[float]) -> str:
    return f"{statistics.median(samples):6.2f} us ({min(samples):.2f} to {max(samples):.2f})"


def main() -> None:
    """Measure and print every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    how = "calls" if mx.metal.is_available() else "calls traced in an export, no Metal here"
    print(f"{platform.system()} {platform.machine()}, mlx {mx.__version__}: {how}")
    for case in cases():
        ours, by_hand = measure(case, options.rounds, options.calls)
        ratio = statistics.median(ours) / statistics.median(by_hand)
        added = statistics.median(ours) - statistics.median(by_hand)
        print(case.title)
        print(f"  through the op  {_summary(ours)}")
        print(f"  by hand         {_summary(by_hand)}")
        print(f"  ratio {ratio:.2f}, bookkeeping {added:.2f} us a call")


if __name__ == "__main__":
    main()
