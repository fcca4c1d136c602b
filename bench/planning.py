"""Time the planning of new shapes: from a problem to the choice and its plan, nothing compiled.

    python bench/planning.py --out bench/results/planning.md

Every shape is new to the process, as it is for the first call with it. Where many shapes share one
choice, as those of a sequence do while it is decoded, each row but the last has a choice of its own
for each. Times are of the CPU that runs this, and have no GPU in them.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families.attention.problem import QueryGradientProblem
from mlx_tilegemm.families.attention.spelling import parse as attention
from mlx_tilegemm.families.gemm.spelling import parse as matmul
from mlx_tilegemm.machine import chips

LIMIT = 0.5
"""Milliseconds that planning a new shape may take."""


def decoding(i: int) -> Problem:
    """Return one of the attentions of 1 to 4 tokens of which no two share a choice."""
    octave, step = divmod(i // 4, 16)
    return attention(f"1x32x8x{1 + i % 4}x{(17 + step) * 256 << octave}x128:f16")


def gradient(i: int) -> Problem:
    """Return a gradient of q."""
    forward = attention(f"1x8x8x{2048 + i}x{2048 + i}x256:f16:causal")
    return QueryGradientProblem(attention=replace(forward, return_lse=True))


SHAPES: dict[str, Callable[[int], Problem]] = {
    "product, prefill": lambda i: matmul(f"{512 + i}x4096x{4096 + 8 * i}:f16,bf16:nt"),
    "product, one row": lambda i: matmul(f"1x{4096 + i}x{4096 + 8 * i}:f16,bf16:nt"),
    "product, integers": lambda i: matmul(f"{65 + i}x512x{256 + i}:i8"),
    "attention, prefill": lambda i: attention(f"1x32x8x{2048 + i}x{2048 + i}x128:f16:causal"),
    "attention, heads of 256": lambda i: attention(f"1x8x8x{2048 + i}x{2048 + i}x256:f16"),
    "attention, gradient of q": gradient,
    "attention, decoding": decoding,
}
SHARING: dict[str, Callable[[int], Problem]] = {
    "attention, one key more": lambda i: attention(f"1x32x8x1x{5000 + i}x128:f16"),
}
"""Most of these take the choice of one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Milliseconds that planning one shape took.

    Attributes:
        planning: All of it.
        collecting: The part in which Python collected garbage.
    """

    planning: float
    collecting: float


@contextmanager
def collections() -> Iterator[list[float]]:
    """Note the milliseconds of each collection of garbage inside the ``with`` block."""
    times: list[float] = []
    start = 0.0

    def note(phase: str, info: Mapping[str, object]) -> None:
        nonlocal start
        now = time.process_time()
        if phase == "stop":
            times.append(1e3 * (now - start))
        start = now

    gc.callbacks.append(note)
    try:
        yield times
    finally:
        gc.callbacks.remove(note)


def planning_times(make: Callable[[int], Problem], chip: chips.Chip, count: int) -> list[Sample]:
    """Measure the planning of so many new shapes, after one to warm up."""
    problems = [make(i) for i in range(count + 1)]
    choose(problems[0], chip, mlx_competes=True)
    samples = []
    with collections() as collected:
        for problem in problems[1:]:
            collected.clear()
            start = time.process_time()
            assert choose(problem, chip, mlx_competes=True).reason
            took = 1e3 * (time.process_time() - start)
            samples.append(Sample(planning=took, collecting=sum(collected)))
    return samples


def row(name: str, samples: Sequence[Sample]) -> str:
    """Return a row of the table."""
    times = sorted(one.planning for one in samples)
    worst = max(samples, key=lambda one: one.planning)
    cells = (
        statistics.median(times),
        times[int(0.9 * len(times))],
        max(one.planning - one.collecting for one in samples),
        worst.planning,
        worst.collecting,
    )
    return f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [chip.name for chip in chips.CHIPS]
    parser.add_argument("--chip", type=chips.spelled, default="m4-max", choices=names)
    parser.add_argument("--count", type=int, default=200, help="new shapes of each kind")
    parser.add_argument("--out", type=Path, help="write the table there")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("Expected at least one shape of each kind.")
    chip = chips.get(options.chip)
    rows = [
        row(name, planning_times(make, chip, options.count))
        for name, make in (SHAPES | SHARING).items()
    ]
    text = f"""# Planning a new shape, for {options.chip}

Measured on {platform.system()} {platform.machine()}, Python {platform.python_version()}, mlx
{version("mlx")}. Written by

    python bench/planning.py --chip {options.chip} --count {options.count} --out FILE

Milliseconds of CPU time for one shape, nothing rendered or compiled; a new one is to take at most
{LIMIT} in the median. Python collects garbage now and then, on whatever call it falls: the worst is
given without it, and with it. The last row's shapes share choices, most of them with one before.

| shape | median | 90 % | worst, without collections | worst | of which collecting |
|---|--:|--:|--:|--:|--:|
{chr(10).join(rows)}
"""
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
