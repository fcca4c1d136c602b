"""Time the planning of new shapes: from a problem to the choice and its plan, nothing compiled.

    python bench/planning.py --out bench/results/planning.md

Every shape is new to the process, as it is for the first call with it. Times are of the CPU that
runs this, and have no GPU in them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families.attention.spelling import parse as attention
from mlx_tilegemm.families.gemm.spelling import parse as matmul
from mlx_tilegemm.machine import chips

SHAPES: dict[str, Callable[[int], Problem]] = {
    "product, prefill": lambda i: matmul(f"{512 + i}x4096x{4096 + 8 * i}:f16,bf16:nt"),
    "product, one row": lambda i: matmul(f"1x{4096 + i}x{4096 + 8 * i}:f16,bf16:nt"),
    "product, integers": lambda i: matmul(f"{65 + i}x512x{256 + i}:i8"),
    "attention, prefill": lambda i: attention(f"1x32x8x{2048 + i}x{2048 + i}x128:f16:causal"),
    "attention, heads of 256": lambda i: attention(f"1x8x8x{2048 + i}x{2048 + i}x256:f16"),
    "attention, decoding": lambda i: attention(f"1x32x8x1x{4096 + 300 * i}x128:f16"),
}


def planning_times(make: Callable[[int], Problem], chip: chips.Chip, count: int) -> list[float]:
    """Return the milliseconds of planning each of so many new shapes, after one to warm up."""
    problems = [make(i) for i in range(count + 1)]
    choose(problems[0], chip, mlx_competes=True)
    times = []
    for problem in problems[1:]:
        start = time.perf_counter()
        assert choose(problem, chip, mlx_competes=True).candidates
        times.append(1e3 * (time.perf_counter() - start))
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [chip.name for chip in chips.CHIPS]
    parser.add_argument("--chip", type=chips.spelled, default="m4-max", choices=names)
    parser.add_argument("--count", type=int, default=200, help="new shapes of each kind")
    parser.add_argument("--out", type=Path, help="write the table there")
    options = parser.parse_args(arguments)
    rows = [
        f"# Planning a new shape, for {options.chip}",
        "",
        f"`python bench/planning.py --chip {options.chip} --count {options.count}`, measured on "
        f"{platform.machine()}, Python {platform.python_version()}, mlx {version('mlx')}: "
        "milliseconds of CPU, nothing rendered or compiled.",
        "",
        "| shape | median | 90 % | worst |",
        "|---|--:|--:|--:|",
    ]
    for name, make in SHAPES.items():
        times = sorted(planning_times(make, chips.get(options.chip), options.count))
        ninth = times[int(0.9 * len(times))]
        rows.append(f"| {name} | {statistics.median(times):.2f} | {ninth:.2f} | {times[-1]:.2f} |")
    text = "\n".join(rows) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
