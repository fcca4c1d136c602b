"""Count what the chosen kernels do, beside MLX's own, on the same problems, in the emulator.

    python bench/counters.py                     # print the comparison
    python bench/counters.py --only decode       # only rows whose names contain a word
    python bench/counters.py --write             # write bench/results/counters.md and .json
    python bench/counters.py --write --keep FILE # go on where an earlier run with FILE was stopped

Counts, not times: nothing here ran on a GPU. The plan of each row is the one that dispatch chooses
for the chip at that size; where a sample of its threadgroups stands for a launch, only that runs,
and its counts are scaled to the grid: see `emulator.count`. Up to 64 results of every output are
compared with float64 before it is counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from counted_families import FAMILIES, SAMPLE, compared, counted, describe, floats, run_mlx
from counters_report import markdown

import mlx_tilegemm
from mlx_tilegemm import emulator
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.emulator import Accesses, Counters, Space
from mlx_tilegemm.families import family_of
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.chips.record import Chip
from mlx_tilegemm.machine.lines import LINE_BYTES

HERE = Path(__file__).parent
CHECKED = 64
"""Results of each output that are compared with float64."""

TOLERANCE = 0.02
"""Of the standard deviation of a result of random operands: several roundings to bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row.

    Attributes:
        name: What it is typical of.
        problem: What is computed.
        sample: Threadgroups that run of a launch for which they stand; 0 for all.
    """

    name: str
    problem: Problem
    sample: int = SAMPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side does, scaled to the whole grid.

    Attributes:
        path: Its kernels.
        seconds: Modelled time.
        launches: Kernels launched.
        sampled: Whether the threadgroups of a sample stand for a launch; else all of them ran.
        device_bytes: Bytes that threads ask device memory for, loads and stores: of operands and
            results; parameters are left out.
        line_bytes: 128 bytes for each line that a threadgroup touches: what its core fetches if it
            keeps what it has read.
        threadgroup_bytes: Bytes that threads load from and store to threadgroup memory.
        products: 8x8x8 matrix products.
        useful: Share of their multiply-adds that the result needs; None without products. More
            than all of them is an error: the counts are not those of the grid.
        threadgroup_barriers: Barriers of threadgroups.
        simdgroup_barriers: Barriers of simdgroups.
        device_accesses: Loads and stores of simdgroups.
        lines: Lines that these touch.
        fewest_lines: The fewest lines that as many words could lie in.
        threadgroup_loads: Loads of simdgroups from threadgroup memory, `simdgroup_load` included.
        threadgroup_stores: Likewise stores.
        turns: Turns of the threadgroup memory's banks that these take.
        fewest_turns: The same without conflicts.
    """

    path: str
    seconds: float
    launches: int
    sampled: bool
    device_bytes: int
    line_bytes: int
    threadgroup_bytes: int
    products: int
    useful: float | None
    threadgroup_barriers: int
    simdgroup_barriers: int
    device_accesses: int
    lines: int
    fewest_lines: int
    threadgroup_loads: int
    threadgroup_stores: int
    turns: int
    fewest_turns: int

    def __post_init__(self) -> None:
        if self.useful is not None and self.useful > 1:
            raise ValueError(
                f"[counters] Expected {self.path} to multiply no less than the result needs, "
                f"got {self.products} products, {self.useful:.2f} times too few."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row's counts."""

    name: str
    text: str
    chip: str
    sample: int
    ours: Side
    mlx: Side


def cases_to_count() -> list[Case]:
    """Return every row."""
    return [
        Case(name=name, problem=family.parse(spelled), sample=sample)
        for family in FAMILIES
        for name, spelled, sample in family.rows
    ]


def count_row(case: Case, chip: Chip) -> Row:
    """Run both sides and return their counts."""
    problem = case.problem
    family = family_of(problem)
    arrays = family.draw(problem, Data())
    mx.eval(*arrays)
    decision = choose(problem, chip)
    plan = decision.plan
    assert plan is not None
    assert decision.mlx is not None
    run = kernel_run(problem, plan, EmulatorBackend())
    with emulator.count(sample=case.sample) as launches:
        (out,) = run(arrays, family.trial_factors(problem), None)
    check(problem, arrays, floats(out))
    seconds = next(one.seconds for one in decision.candidates if one.plan == plan)
    assert seconds is not None
    ours = side(str(plan), seconds, launches, problem)
    with emulator.count(sample=case.sample) as launches:
        result, path = run_mlx(problem, arrays, chip)
    check(problem, arrays, result)
    rival: Any = compared(problem)
    price = family_of(rival).price(rival, chip)
    assert price is not None
    theirs = side(path, price.seconds, launches, problem)
    return Row(
        name=case.name,
        text=describe(problem),
        chip=chip.name,
        sample=case.sample,
        ours=ours,
        mlx=theirs,
    )


def side(path: str, seconds: float, launches: Sequence[Counters], problem: Problem) -> Side:
    """Add up the launches of one side."""
    operands = frozenset(problem.operand_names) | counted(problem).constants
    parts = [_scaled(launch, operands) for launch in launches]
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    products = total["products"]
    return Side(
        path=path,
        seconds=seconds,
        launches=len(launches),
        sampled=any(launch.threadgroups < launch.grid_threadgroups for launch in launches),
        useful=counted(problem).needed(problem) / (512 * products) if products else None,
        **total,
    )


def _scaled(launch: Counters, operands: frozenset[str]) -> dict[str, int]:
    assert launch.accesses is not None
    accesses = without_parameters(launch.accesses, operands)
    device, threadgroup = (accesses.total(space) for space in (Space.DEVICE, Space.THREADGROUP))
    counted = {
        "device_bytes": device.bytes,
        "line_bytes": LINE_BYTES * sum(accesses.threadgroup_lines.values()),
        "threadgroup_bytes": threadgroup.bytes,
        "products": launch.multiply_accumulates,
        "threadgroup_barriers": launch.threadgroup_barriers,
        "simdgroup_barriers": launch.simdgroup_barriers,
        "device_accesses": device.accesses,
        "lines": device.transactions,
        "fewest_lines": device.fewest_transactions,
        "threadgroup_loads": accesses.total(Space.THREADGROUP, stores=False).accesses,
        "threadgroup_stores": accesses.total(Space.THREADGROUP, stores=True).accesses,
        "turns": threadgroup.transactions,
        "fewest_turns": threadgroup.fewest_transactions,
    }
    share = launch.grid_threadgroups / launch.threadgroups
    return {name: round(count * share) for name, count in counted.items()}


def without_parameters(accesses: Accesses, operands: frozenset[str]) -> Accesses:
    """Return accesses in which operands count alike, in whichever address space they are bound.

    Sizes, strides and factors, which come with a launch in `constant`, are left out.
    """
    constants = {site.buffer for site in accesses.sites if site.space is Space.CONSTANT}
    left_out = constants - operands
    lines = accesses.threadgroup_lines.items()
    return replace(
        accesses,
        sites=tuple(
            replace(site, space=Space.DEVICE) if site.space is Space.CONSTANT else site
            for site in accesses.sites
            if site.space is not Space.CONSTANT or site.buffer in operands
        ),
        threadgroup_lines={name: count for name, count in lines if name not in left_out},
    )


def check(problem: Problem, arrays: Sequence[mx.array], out: np.ndarray) -> None:
    """Compare some of the results that were computed with float64.

    A guard against running the wrong thing; exact bounds are the tests' business.
    """
    flat = out.reshape(-1)
    written = np.flatnonzero(np.isfinite(flat))
    assert len(written) >= min(CHECKED, flat.size // 600), "too few results"
    rng = np.random.default_rng(0)
    for index in rng.choice(written, min(CHECKED, len(written)), replace=False):
        value, magnitude = counted(problem).result(problem, arrays, int(index))
        assert abs(flat[index] - value) <= TOLERANCE * magnitude, (index, value, flat[index])


def counted_row(case: Case, chip: Chip, keep: Path | None) -> Row:
    """Return a row's counts: those that a file has of the same sources, or else new ones."""
    key = f"{_sources()} {chip.name} {case.sample} {case.name}: {describe(case.problem)}"
    for line in keep.read_text().splitlines() if keep and keep.exists() else ():
        kept = json.loads(line)
        if kept["key"] == key:
            return row_of(kept["row"])
    row = count_row(case, chip)
    print(f"# {case.name}", flush=True)
    if keep:
        with keep.open("a") as file:
            file.write(json.dumps({"key": key, "row": asdict(row)}) + "\n")
    return row


def row_of(kept: dict[str, Any]) -> Row:
    """Return a row of what a file has of it."""
    sides = {name: Side(**kept[name]) for name in ("ours", "mlx")}
    return Row(**{**kept, **sides})


@lru_cache(maxsize=1)
def _sources() -> str:
    """Return a hash of all that counts depend on: this library, this folder and MLX."""
    found = hashlib.sha256(version("mlx").encode())
    package = Path(mlx_tilegemm.__file__).parent
    paths = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in sorted([*paths, *HERE.glob("*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a command."""
    names = [chip.name for chip in chips.CHIPS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--chip", type=chips.spelled, default="m1-max", choices=names, help="whose plans count")
    parser.add_argument("--only", default="", help="only rows whose names contain this")
    parser.add_argument("--write", action="store_true", help="write bench/results/counters.*")
    add("--keep", type=Path, help="file of rows: those of the same sources are not counted again")
    options = parser.parse_args(arguments)
    chip = chips.get(options.chip)
    if chip.neural_fma_per_cycle:
        parser.error(
            f"Expected --chip without neural accelerators, got {chip.name}: MLX multiplies on them "
            "by Metal's tensor operations, which the emulator does not run."
        )
    cases = [case for case in cases_to_count() if options.only in case.name]
    if not cases:
        parser.error(f"Expected --only to be a part of a row's name, got {options.only!r}.")
    if options.write and options.only:
        parser.error("Expected --write without --only: what is written has every row.")
    rows = [counted_row(case, chip, options.keep) for case in cases]
    text = markdown(rows, version("mlx"))
    if options.write:
        (HERE / "results" / "counters.md").write_text(text)
        counted = [asdict(row) for row in rows]
        (HERE / "results" / "counters.json").write_text(json.dumps(counted, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
