"""The counts of bench/counters.py as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlx_tilegemm.dispatch import RESOLUTION

if TYPE_CHECKING:
    from counters import Row, Side

HEADER = """# What our kernels and MLX's do, counted

{short}
{verdicts}

## How it was counted

Counted in the emulator, not measured on a GPU. Both sides are Metal text that the emulator
executes: ours as dispatch chooses it for {chip}, MLX's from its own headers (mlx {version}), with
the kernel, tile and grid that MLX would take on that chip, and its casts where dtypes differ.
Written by

    python bench/counters.py --chip {chip} --write

Up to 64 results of every output were compared with float64 first.
{scope}

- **device MB**: bytes that threads ask device memory for, loads and stores, each for itself. What
  two simdgroups ask for counts twice, though one of them may be served by a cache. Operands count
  wherever they are bound, `constant` memory too; sizes, strides and factors do not, of either side.
- **lines MB**: 128 bytes for every line that a threadgroup touches, once a threadgroup: what its
  core fetches if it keeps what it has read. Kernels that stage operands have both alike.
- **threadgroup MB**: bytes loaded from and stored to threadgroup memory, by thread.
- **modelled**: the cost model's time, which also decides what runs.

"Ours / MLX" is below 1 where ours does less.
"""

SAMPLED = """*({sample})* marks a side of whose launches so many
threadgroups ran, spread over the grid, and the counts are scaled to the whole: they did the same,
line by line, and filled their share of the output. Of the other sides all threadgroups ran."""

WORK = """
## Instructions

- **MMAs**: 8x8x8 products of simdgroup matrices; **useful** is the share of their multiply-adds
  that the result needs, the rest being edges and padding.
- **barriers**: of threadgroups / of simdgroups.
- **device**: loads and stores of simdgroups, each up to 16 bytes a lane, and 128-byte lines that
  one touches in the mean / the fewest that as many words could lie in.
- **threadgroup**: loads + stores of simdgroups, and turns that the 32 banks of 4 bytes take for one
  in the mean / the fewest. MLX loads fragments by lane, as ours do: neither calls `simdgroup_load`.

| row | side | MMAs | useful | barriers | device | lines each | threadgroup | turns each |
|---|---|---|---|---|---|---|---|---|"""


ALIKE = 1.005
"""Ratio up to which two counts are alike: the granularity of a line or a word."""


def markdown(rows: list[Row], version: str) -> str:
    """Return the report."""
    sampled = [row.sample for row in rows if row.ours.sampled or row.mlx.sampled]
    scope = SAMPLED.format(sample=max(sampled)) if sampled else "All threadgroups ran."
    header = HEADER.format(
        chip=rows[0].chip,
        version=version,
        scope=scope,
        short="\n".join(_short(rows)),
        verdicts="\n".join(_verdicts(rows)),
    )
    lines = [header, "## Bytes", ""]
    lines += [
        "| row | problem | side | kernels | device MB | lines MB | threadgroup MB | modelled |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        lines += _bytes(row)
    lines.append(WORK)
    for row in rows:
        lines += [_work(row.name, "ours", row.ours), _work("", "MLX", row.mlx)]
    return "\n".join(lines) + "\n"


FIELDS = {
    "device_bytes": "bytes asked of device memory",
    "line_bytes": "lines that reach a core",
    "threadgroup_bytes": "bytes of threadgroup memory",
    "seconds": "modelled time",
}
"""What is compared, in words."""


def _short(rows: list[Row]) -> Iterator[str]:
    """Yield in how many rows ours does less than MLX's, as much, and more."""
    yield f"Of {len(rows)} problems on {rows[0].chip}, this library's kernels do less than MLX's,"
    yield "as much (within half a percent), or more, in so many:"
    yield ""
    yield "| ours beside MLX's | less | as much | more | least | most |"
    yield "|---|--:|--:|--:|---|---|"
    for field, text in FIELDS.items():
        pairs = {row.name: (getattr(row.ours, field), getattr(row.mlx, field)) for row in rows}
        less = sum(ours < theirs / ALIKE for ours, theirs in pairs.values())
        more = sum(ours > theirs * ALIKE for ours, theirs in pairs.values())
        ratios = {name: ours / theirs for name, (ours, theirs) in pairs.items() if theirs}
        ends = (f"{ratios[name]:.2f}, {name}" for name in (_least(ratios), _most(ratios)))
        yield f"| {text} | {less} | {len(rows) - less - more} | {more} | {' | '.join(ends)} |"
    yield ""


def _least(ratios: dict[str, float]) -> str:
    return min(ratios, key=lambda name: ratios[name])


def _most(ratios: dict[str, float]) -> str:
    return max(ratios, key=lambda name: ratios[name])


def _bytes(row: Row) -> list[str]:
    ours, mlx = (f" ({row.sample})" if side.sampled else "" for side in (row.ours, row.mlx))
    first = f"| {row.name} | {row.text} | ours{ours} | {_sizes(row.ours)}"
    second = f"| | | MLX{mlx} | {_sizes(row.mlx)}"
    ratios = [
        _ratio(getattr(row.ours, field), getattr(row.mlx, field))
        for field in ("device_bytes", "line_bytes", "threadgroup_bytes", "seconds")
    ]
    return [first, second, f"| | | ours / MLX | | {' | '.join(ratios)} |"]


def _sizes(side: Side) -> str:
    sizes = (side.device_bytes, side.line_bytes, side.threadgroup_bytes)
    cells = " | ".join(f"{size / 1e6:.2f}" for size in sizes)
    return f"{side.path} | {cells} | {side.seconds * 1e6:.0f} us |"


def _ratio(ours: float, theirs: float) -> str:
    if theirs == 0:
        return "1.00" if ours == 0 else "more"
    return f"{ours / theirs:.2f}"


def _verdicts(rows: list[Row]) -> list[str]:
    """Say of every row whether ours moves no more, and if not, what the model says."""
    below = sum(not _above(row) for row in rows)
    lines = [
        f"At or below MLX on device and threadgroup bytes in {below} of {len(rows)} rows. "
        "The others:",
        "",
    ]
    for row in rows:
        if _above(row):
            lines.append(f"- **{row.name}**: more {' and '.join(_above(row))}. {_reason(row)}")
    return lines


def _above(row: Row) -> list[str]:
    """Return what ours moves more of."""
    fields = {"device_bytes": "device bytes", "threadgroup_bytes": "threadgroup bytes"}
    return [
        text
        for field, text in fields.items()
        if getattr(row.ours, field) > ALIKE * getattr(row.mlx, field)
    ]


def _reason(row: Row) -> str:
    """Say why that is better otherwise, or that it is not."""
    ours, theirs = row.ours, row.mlx
    ratio = ours.seconds / theirs.seconds
    text = f"Modelled {ratio:.2f} of MLX's time"
    if theirs.path.endswith("copy"):
        text += ", to which making the copy is not counted"
    elif ratio > RESOLUTION:
        text += ", so that on a GPU the call is left to MLX"
    elif ratio > 1 / RESOLUTION:
        text += ", which the model does not tell apart: ties go to this library"
    if not ours.threadgroup_bytes and theirs.threadgroup_bytes:
        share = ours.line_bytes / theirs.line_bytes
        text += (
            ". It stages nothing: what its simdgroups ask for again is in the core's cache, and "
            f"the lines that reach the core are {share:.2f} of MLX's"
        )
    elif ours.useful and theirs.useful and ours.useful > theirs.useful:
        text += f". Its blocks are smaller, {_text(ours)} of useful work against {_text(theirs)}"
    elif ours.device_bytes < theirs.device_bytes:
        share = ours.device_bytes / theirs.device_bytes
        text += f". It asks device memory for {share:.2f} of MLX's bytes"
    return f"{text}."


def _text(side: Side) -> str:
    return f"{side.useful:.0%}"


def _work(name: str, who: str, side: Side) -> str:
    products = f"{side.products:,}" if side.products else "-"
    useful = f"{side.useful:.0%}" if side.useful is not None else "-"
    accesses = side.threadgroup_loads + side.threadgroup_stores
    lines = _each(side.lines, side.fewest_lines, side.device_accesses)
    return (
        f"| {name} | {who} | {products} | {useful} "
        f"| {side.threadgroup_barriers:,} / {side.simdgroup_barriers:,} "
        f"| {side.device_accesses:,} | {lines} "
        f"| {side.threadgroup_loads:,} + {side.threadgroup_stores:,} "
        f"| {_each(side.turns, side.fewest_turns, accesses)} |"
    )


def _each(count: int, fewest: int, accesses: int) -> str:
    return f"{count / accesses:.2f} / {fewest / accesses:.2f}" if accesses else "-"
