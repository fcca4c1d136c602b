"""What edits have made of the comparison with MLX: registers before and after.

PYTHONPATH=<checkout of the earlier commit> python tools/agx calibrate --json before.json
python tools/agx calibrate --against before.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from . import markdown, project
from .calibration import CHIP, Row, Side
from .report import resident

MARGIN = 4
"""Registers that ours may have more than MLX's."""

Pair = tuple[int, int]
"""A number without and with moving code out of loops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What the compilers make of one text.

    Attributes:
        registers: 32-bit registers wanted at the widest point.
        spills: Stores of registers that there was no room for.
        resident: Threads of whole threadgroups that a core holds.
    """

    registers: Pair
    spills: Pair
    resident: Pair


Kept = dict[str, dict[str, Numbers]]
"""Numbers by kernel, by comparison."""


def kept(rows: Sequence[Row]) -> Kept:
    """Return the numbers of all comparisons; MLX's kernel is one of each."""
    return {
        str(row.case): {
            side.name: found for side in (row.mlx, *row.ours) if (found := _numbers(side))
        }
        for row in rows
    }


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the numbers as JSON, a line for each comparison."""
    lines = (
        f"{json.dumps(name)}: {json.dumps({k: _plain(one) for k, one in sides.items()})}"
        for name, sides in kept(rows).items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def load(path: Path) -> Kept:
    """Read what `save` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: {kernel: _read(numbers) for kernel, numbers in sides.items()}
        for name, sides in found.items()
    }


def _numbers(side: Side) -> Numbers | None:
    if side.bracket is None:
        return None
    ends = (side.bracket.low, side.bracket.high)
    memory = project.core_memory(CHIP)
    held = tuple(resident(build, side.threads, memory) for build in ends)
    return Numbers(
        registers=(ends[0].registers, ends[1].registers),
        spills=(ends[0].spills, ends[1].spills),
        resident=(held[0], held[1]),
    )


def _plain(one: Numbers) -> list[Pair]:
    return [one.registers, one.spills, one.resident]


def _read(numbers: Sequence[Sequence[int]]) -> Numbers:
    registers, spills, held = ((low, high) for low, high in numbers)
    return Numbers(registers=registers, spills=spills, resident=held)


_HOW = f"""\
Our kernels and MLX's through clang and Mesa's compiler for M1 and M2, not Apple's: compiled, not
measured. Each number is a pair, without and with moving code out of loops.

- **before**, **now**: 32-bit registers, and spills where there are any. Empty where the
  configuration was not there, or is none to choose any more.
- **threads**: of whole threadgroups that a core holds, by registers and threadgroup memory.
- **goal**: *met* where ours has at most {MARGIN} registers more than MLX's at both ends, does not
  spill and leaves a core no fewer threads. A case is met where some configuration meets it:
  which one is taken, the cost model or a trial decides.
"""


def to_markdown(rows: Sequence[Row], earlier: Kept, compilers: str, command: str) -> str:
    """Return what has become of all comparisons as Markdown."""
    parts = [f"# Registers before and after\n\n{_lead(rows, earlier)}\n{_HOW}"]
    parts.append(f"Compilers: {compilers}. Written by\n\n    {command}\n")
    parts.append(f"## In short\n\n{_summary(rows, earlier)}")
    for group, found in groupby(rows, lambda row: row.case.group):
        lines = [line for row in found for line in _lines(row, earlier)]
        if lines:
            head = (
                "case",
                "kernel",
                "MLX",
                "before",
                "now",
                "threads, MLX",
                "before",
                "now",
                "goal",
            )
            parts.append(f"## {group}\n\n{markdown.table(head, lines)}")
    return "\n".join(parts)


def _lead(rows: Sequence[Row], earlier: Kept) -> str:
    """Return what the tables say, in a sentence."""
    counted = [_counted(row, earlier) for row in rows if row.ours]
    before, now, spilled, spill = (sum(column) for column in zip(*counted, strict=True))
    return (
        f"Of {len(counted)} cases {now} are met, {before} were before; {spill} texts spill, "
        f"{spilled} did.\n"
    )


def _summary(rows: Sequence[Row], earlier: Kept) -> str:
    lines = []
    for group, found in groupby(rows, lambda row: row.case.group):
        counted = [_counted(row, earlier) for row in found if row.ours]
        if counted:
            lines.append(
                (group, len(counted), *(sum(column) for column in zip(*counted, strict=True)))
            )
    head = (
        *("group", "cases", "met before", "met now"),
        *("texts that spilled", "texts that spill now"),
    )
    return markdown.table(head, lines)


def _counted(row: Row, earlier: Kept) -> tuple[int, int, int, int]:
    """Return whether any kernel meets the goal, before and now, and how many spill."""
    name, now = str(row.case), kept([row])
    before = earlier.get(name, {})
    after = now[name]
    mlx = after.get("MLX")
    ours = [[one for kernel, one in sides.items() if kernel != "MLX"] for sides in (before, after)]
    met = [int(any(_meets(one, mlx) for one in some)) for some in ours]
    spilling = [sum(any(one.spills) for one in some) for some in ours]
    return met[0], met[1], spilling[0], spilling[1]


def _meets(one: Numbers, mlx: Numbers | None) -> bool:
    if mlx is None:
        return False
    registers = all(a <= b + MARGIN for a, b in zip(one.registers, mlx.registers, strict=True))
    threads = all(a >= b for a, b in zip(one.resident, mlx.resident, strict=True))
    return registers and threads and not any(one.spills)


def _lines(row: Row, earlier: Kept) -> Iterator[tuple[str, ...]]:
    if not row.ours:
        return
    name = str(row.case)
    before, after = earlier.get(name, {}), kept([row])[name]
    mlx = after.get("MLX")
    shown = row.case.name
    for kernel in dict.fromkeys((*before, *after)):
        if kernel == "MLX":
            continue
        old, new = before.get(kernel), after.get(kernel)
        yield (
            shown,
            kernel,
            _registers(mlx),
            _registers(old),
            _registers(new),
            *(_pair(one.resident) if one else "" for one in (mlx, old, new)),
            "" if new is None or mlx is None else "met" if _meets(new, mlx) else "not met",
        )
        shown = ""


def _registers(one: Numbers | None) -> str:
    if one is None:
        return ""
    spills = f", spills {_pair(one.spills)}" if any(one.spills) else ""
    return _pair(one.registers) + spills


def _pair(pair: Pair) -> str:
    return f"{pair[0]} \\| {pair[1]}"
