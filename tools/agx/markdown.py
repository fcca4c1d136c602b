"""A report for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import mean, median

from .compiler import Bracket, Build
from .report import Change, Difference, Report, Row, resident

WIDEST = 12
"""Texts named of each kernel."""

MOST_CHANGES = 60

_HOW = """\
Compiled, not measured: by clang and by Mesa's compiler for M1 and M2, not by Apple's. Each number
is a pair, without and with moving code out of loops; Apple's compiler is somewhere about there.
`agx` in the tools says how, and how far to trust it.

- **registers**: 32-bit registers wanted at the widest point. More than 128 means that the rest is
  spilled.
- **occupancy**: threads that the registers of a core leave room for.
- **resident**: threads of whole threadgroups that a core holds, by registers and by threadgroup
  memory.
- **step**: one turn of the main loop at the low end: 8x8 products, loads from device and from
  threadgroup memory, instructions.
"""


def markdown(
    report: Report, difference: Difference | None, command: str, of: int | None = None
) -> str:
    """Return a report as Markdown.

    Args:
        report: The report.
        difference: Against an earlier one, or None.
        command: What made it.
        of: How many texts there are, if not all are in it.
    """
    some = f" of {of}" if of and of != len(report.rows) else ""
    parts = [
        f"# Registers and spills of {len(report.rows)}{some} texts\n\n{_lead(report)}\n{_HOW}",
        f"Chosen for {report.chip}. Compilers: {report.compilers}. Written by\n\n    {command}\n",
        *([_difference(difference)] if difference else []),
        _summary(report),
        _estimates(report),
        *_widest(report),
        *_refused(report),
    ]
    return "\n".join(parts)


UNDER = 10
"""Registers below the middle of both ends from which an estimate is named as too low."""


def _lead(report: Report) -> str:
    """Return what the report says, in a sentence or two."""
    found = [(row, row.bracket) for row in report.rows if row.bracket is not None]
    spilling = [row for row, one in found if one.low.spills or one.high.spills]
    of_models = sum(row.usual for row in spilling)
    under = sum(row.estimate < middle(one) - UNDER for row, one in found)
    means = [
        mean(abs(row.estimate - middle(row.bracket)) for row in rows if row.bracket)
        for _, rows in _by_kernel(row for row, _ in found)
    ]
    compiled = (
        f"{len(found)} texts were compiled, {len(report.rows) - len(found)} were refused by a "
        f"compiler. {len(spilling)} spill at one end or both, {of_models} of them with sizes that "
        "models have."
    )
    if not means:
        return f"{compiled}\n"
    return (
        f"{compiled} Estimates are {min(means):.1f} to {max(means):.1f} registers off in the mean "
        f"of a kernel; {under} are more than {UNDER} below the middle of both ends.\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def both(bracket: Bracket, name: str) -> str:
    """Return a number of both ends."""
    low, high = getattr(bracket.low, name), getattr(bracket.high, name)
    return f"{low} \\| {high}"


def step(build: Build) -> str:
    """Return one turn of the main loop, in short."""
    one = build.step
    loads = f"{one.device_loads} + {one.threadgroup_loads} loads"
    return f"{one.products} products, {loads}, {one.instructions} inst"


def resident_both(row: Row, core_memory: int) -> str:
    """Return the threads that a core holds of a row's text, at both ends."""
    assert row.bracket is not None
    ends = (row.bracket.low, row.bracket.high)
    return " \\| ".join(str(resident(build, row.threads, core_memory)) for build in ends)


def _by_kernel(rows: Iterable[Row]) -> Iterable[tuple[str, list[Row]]]:
    ordered = sorted(rows, key=lambda row: row.kernel)
    return [(kernel, list(found)) for kernel, found in groupby(ordered, lambda row: row.kernel)]


def _summary(report: Report) -> str:
    head = (
        *("kernel", "texts", "registers, median", "registers, most", "estimate, median"),
        *("texts that spill", "in both", "bytes unlike counted"),
    )
    return f"## By kernel\n\n{table(head, (_kernel(*one) for one in _by_kernel(report.rows)))}"


def _kernel(name: str, rows: list[Row]) -> tuple[object, ...]:
    found = [(row, row.bracket) for row in rows if row.bracket is not None]
    low = [bracket.low for _, bracket in found]
    high = [bracket.high for _, bracket in found]
    return (
        name,
        len(found),
        f"{_median(low):g} \\| {_median(high):g}",
        f"{_most(low)} \\| {_most(high)}",
        f"{median(row.estimate for row, _ in found):g}" if found else "",
        f"{sum(one.spills > 0 for one in low)} \\| {sum(one.spills > 0 for one in high)}",
        sum(bool(one.low.spills and one.high.spills) for _, one in found),
        sum(row.threadgroup_bytes != one.low.threadgroup_bytes for row, one in found),
    )


def _estimates(report: Report) -> str:
    head = ("kernel", "texts", "mean error", "bias", "lowest", "highest")
    lines = (_errors(*one) for one in _by_kernel(report.rows))
    return f"## Estimates against the middle of both ends\n\n{table(head, lines)}"


def _errors(name: str, rows: list[Row]) -> tuple[object, ...]:
    errors = [row.estimate - middle(row.bracket) for row in rows if row.bracket is not None] or [0]
    return (
        name,
        len(errors),
        f"{mean(map(abs, errors)):.1f}",
        f"{mean(errors):+.1f}",
        f"{min(errors):+g}",
        f"{max(errors):+g}",
    )


def middle(bracket: Bracket) -> float:
    """Return the middle of the registers at both ends."""
    return (bracket.low.registers + bracket.high.registers) / 2


def _median(builds: list[Build]) -> float:
    return median([build.registers for build in builds] or [0])


def _most(builds: list[Build]) -> int:
    return max((build.registers for build in builds), default=0)


def _widest(report: Report) -> Iterable[str]:
    head = (
        *("config", "problem", "estimate", "registers", "spills", "occupancy", "bytes"),
        *("resident", "step"),
    )
    for kernel, rows in _by_kernel(report.rows):
        found = sorted((row for row in rows if row.bracket), key=_width, reverse=True)[:WIDEST]
        yield f"## Widest of {kernel}\n\n{table(head, (_line(row, report) for row in found))}"


def _width(row: Row) -> tuple[int, int]:
    assert row.bracket is not None
    low, high = row.bracket.low, row.bracket.high
    return low.spills + high.spills, low.registers + high.registers


def _line(row: Row, report: Report) -> tuple[object, ...]:
    assert row.bracket is not None
    return (
        row.config,
        row.problem,
        row.estimate,
        both(row.bracket, "registers"),
        both(row.bracket, "spills"),
        both(row.bracket, "occupancy"),
        row.bracket.low.threadgroup_bytes,
        resident_both(row, report.core_memory),
        step(row.bracket.low),
    )


def _refused(report: Report) -> Iterable[str]:
    refused = [row for row in report.rows if row.bracket is None]
    if refused:
        lines = ((row.kernel, row.config, row.problem, row.reason) for row in refused)
        yield f"## Not compiled\n\n{table(('kernel', 'config', 'problem', 'reason'), lines)}"


def _difference(difference: Difference) -> str:
    counts = (
        f"{len(difference.changes)} texts changed notably, {difference.small} a little, "
        f"{difference.same} not; {difference.new} are new, {difference.gone} are gone."
    )
    shown = difference.changes[:MOST_CHANGES]
    left = len(difference.changes) - len(shown)
    more = f"\n{left} more are not shown.\n" if left else ""
    lines = table(("", "kernel", "config", "problem", "change"), map(_changed, shown))
    return f"## Against the earlier report\n\n{counts}\n\n{lines if shown else ''}{more}"


def _changed(change: Change) -> tuple[str, ...]:
    row = change.row
    sign = "worse" if change.worse else "better"
    return sign, row.kernel, row.config, row.problem, ", ".join(change.words)
