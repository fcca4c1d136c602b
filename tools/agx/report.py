"""Rows of a report, how they are kept, and what has changed since an earlier one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .compiler import Bracket, Build, CompileError, Compiler
from .dialect import Program
from .steps import Step

Key = tuple[str, str, str]
"""Kernel, problem and configuration."""

NOTABLE = 8
"""Registers by which a row has to change to be named, other things being equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A text and what was made of it.

    Attributes:
        kernel: The kernel's template.
        problem: What it computes.
        config: What it is tiled like.
        digest: Of the text.
        threads: Threads of a threadgroup.
        estimate: The project's own estimate of its registers.
        threadgroup_bytes: Threadgroup memory that the project counts, in bytes.
        usual: Whether models have such sizes; else they are a variant's.
        bracket: What the compiler makes of it; None if it refused.
        reason: Why it refused.
    """

    kernel: str
    problem: str
    config: str
    digest: str
    threads: int
    estimate: int
    threadgroup_bytes: int
    usual: bool
    bracket: Bracket | None
    reason: str = ""

    @property
    def key(self) -> Key:
        """What the row is called."""
        return self.kernel, self.problem, self.config


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Rows, and what they were made with.

    Attributes:
        chip: The chip that texts were chosen for.
        core_memory: Bytes of threadgroup memory of a core of it.
        compilers: The compilers, in words.
        rows: The rows.
    """

    chip: str
    core_memory: int
    compilers: str
    rows: tuple[Row, ...]


# Folders of a file: where something lies on this machine is nobody's business.
_PATH = re.compile(r"(?<![\w.])/(?:[^\s/:'\"]+/)+")


def digest(program: Program) -> str:
    """Return a short name of a text."""
    return hashlib.sha256(program.code.encode()).hexdigest()[:10]


def compiled(compiler: Compiler, program: Program) -> tuple[Bracket | None, str]:
    """Return what a compiler makes of a program, or why it refuses."""
    try:
        return compiler.bracket(program), ""
    except CompileError as refusal:
        return None, _PATH.sub("", " ".join(str(refusal).split()))[:300]


def resident(build: Build, threads: int, core_memory: int) -> int:
    """Return how many threads of whole threadgroups a core holds at a time.

    Args:
        build: Its registers and threadgroup memory.
        threads: Threads of a threadgroup.
        core_memory: Bytes of threadgroup memory of a core.
    """
    groups = build.occupancy // threads
    if build.threadgroup_bytes:
        groups = min(groups, core_memory // build.threadgroup_bytes)
    return groups * threads


# How a row is kept: what is not in its key, the step of the low end only.
_ENDS = ("registers", "occupancy", "spills", "fills", "instructions", "in_loop")
_STEP = tuple(Step.__slots__)
COLUMNS = (
    *("digest", "threads", "estimate", "counted_bytes", "usual", "threadgroup_bytes"),
    *(f"{name}_{end}" for name in _ENDS for end in ("low", "high")),
    *(f"step_{name}" for name in _STEP),
)


def save(report: Report, path: Path) -> None:
    """Write a report as JSON, a line for each row."""
    kernels: dict[str, dict[str, dict[str, str]]] = {}
    for row in report.rows:
        problems = kernels.setdefault(row.kernel, {}).setdefault(row.problem, {})
        problems[row.config] = json.dumps(_numbers(row), separators=(",", ":"))
    about = {"chip": report.chip, "core_memory": report.core_memory, "compilers": report.compilers}
    head = json.dumps({**about, "columns": COLUMNS})[:-1]
    path.write_text(f'{head}, "kernels": {{\n{_joined(map(_kernel, kernels.items()))}\n}}}}\n')


def _kernel(item: tuple[str, dict[str, dict[str, str]]]) -> str:
    name, problems = item
    return f"{json.dumps(name)}: {{\n{_joined(map(_problem, problems.items()))}\n}}"


def _problem(item: tuple[str, dict[str, str]]) -> str:
    name, configs = item
    rows = (f"{json.dumps(config)}:{numbers}" for config, numbers in configs.items())
    return f"{json.dumps(name)}: {{\n{_joined(rows)}\n}}"


def _joined(parts: Iterable[str]) -> str:
    return ",\n".join(parts)


def _numbers(row: Row) -> list[object]:
    own: list[object] = [row.digest, row.threads, row.estimate, row.threadgroup_bytes]
    own.append(int(row.usual))
    if row.bracket is None:
        return [*own, row.reason]
    low, high = row.bracket.low, row.bracket.high
    ends = [int(getattr(build, name)) for name in _ENDS for build in (low, high)]
    return [*own, low.threadgroup_bytes, *ends, *(getattr(low.step, name) for name in _STEP)]


def load(path: Path) -> Report:
    """Read what `save` wrote.

    Raises:
        ValueError: The file holds something else.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or tuple(content.get("columns", ())) != COLUMNS:
        raise ValueError(f"[agx] Expected {path} to be a report of this version of the tool.")
    return Report(
        chip=content["chip"],
        core_memory=content["core_memory"],
        compilers=content["compilers"],
        rows=tuple(_rows(content["kernels"])),
    )


def _rows(kernels: dict[str, dict[str, dict[str, list[Any]]]]) -> Iterator[Row]:
    for kernel, problems in kernels.items():
        for problem, configs in problems.items():
            for config, numbers in configs.items():
                yield _row((kernel, problem, config), numbers)


def _row(key: Key, numbers: list[Any]) -> Row:
    compiled = len(numbers) == len(COLUMNS)
    return Row(
        kernel=key[0],
        problem=key[1],
        config=key[2],
        digest=numbers[0],
        threads=numbers[1],
        estimate=numbers[2],
        threadgroup_bytes=numbers[3],
        usual=bool(numbers[4]),
        bracket=_bracket(dict(zip(COLUMNS, numbers, strict=True))) if compiled else None,
        reason="" if compiled else numbers[5],
    )


def _bracket(fields: dict[str, Any]) -> Bracket:
    step = Step(**{name: fields[f"step_{name}"] for name in _STEP})
    return Bracket(low=_build(fields, "low", step), high=_build(fields, "high", step))


def _build(fields: dict[str, Any], end: str, step: Step) -> Build:
    ends = {name: fields[f"{name}_{end}"] for name in _ENDS}
    ends["in_loop"] = bool(ends["in_loop"])
    return Build(**ends, threadgroup_bytes=fields["threadgroup_bytes"], step=step)


def by_digest(earlier: Report, compiler: Compiler) -> dict[str, Row]:
    """Return the rows of an earlier report by their texts.

    Raises:
        ValueError: Other compilers made them.
    """
    if earlier.compilers != compiler.description:
        raise ValueError(
            f"[agx] Expected a report by {compiler.description}, got one by {earlier.compilers}."
        )
    return {row.digest: row for row in earlier.rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What has changed of a row.

    Attributes:
        row: The row as it is now, or was if it is gone.
        words: What has changed, in words; a number is of the low end, two are of both.
        worse: Whether any of it is for the worse.
    """

    row: Row
    words: tuple[str, ...]
    worse: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A report against an earlier one.

    Attributes:
        changes: Rows that changed notably, those for the worse first.
        small: How many changed, but not notably.
        same: How many did not.
        new: How many the earlier report does not have.
        gone: How many only the earlier report has.
    """

    changes: tuple[Change, ...]
    small: int
    same: int
    new: int
    gone: int


def compare(rows: Sequence[Row], earlier: Sequence[Row]) -> Difference:
    """Compare rows with earlier ones of the same names, or else of the same texts."""
    by_key = {row.key: row for row in earlier}
    by_digest = {row.digest: row for row in earlier}
    found = [(row, by_key.get(row.key) or by_digest.get(row.digest)) for row in rows]
    pairs = [(row, before) for row, before in found if before is not None]
    matched = {before.key for _, before in pairs}
    changes = [_change(row, before) for row, before in pairs]
    notable = sorted((one for one in changes if one.words), key=lambda one: not one.worse)
    same = sum(_same(row, before) for row, before in pairs)
    return Difference(
        changes=tuple(notable),
        small=len(pairs) - same - len(notable),
        same=same,
        new=len(found) - len(pairs),
        gone=len(by_key.keys() - matched),
    )


def _same(row: Row, before: Row) -> bool:
    return _numbers(row)[4:] == _numbers(before)[4:]


def _change(row: Row, before: Row) -> Change:
    if row.bracket is None or before.bracket is None:
        return _compiles(row, before)
    signed: list[tuple[str, int]] = []
    for end in ("low", "high"):
        signed += _end_changes(end, getattr(row.bracket, end), getattr(before.bracket, end))
    bytes_more = row.bracket.low.threadgroup_bytes - before.bracket.low.threadgroup_bytes
    if bytes_more:
        signed.append((f"{bytes_more:+} threadgroup bytes", bytes_more))
    return Change(
        row=row,
        words=tuple(words for words, _ in signed),
        worse=any(sign > 0 for _, sign in signed),
    )


def _compiles(row: Row, before: Row) -> Change:
    if (row.bracket is None) == (before.bracket is None):
        return Change(row=row, words=(), worse=False)
    worse = row.bracket is None
    words = f"does not compile any more: {row.reason}" if worse else "compiles now"
    return Change(row=row, words=(words,), worse=worse)


def _end_changes(end: str, now: Build, before: Build) -> Iterator[tuple[str, int]]:
    """Yield what has changed at one end, with a sign that is positive for the worse."""
    registers = now.registers - before.registers
    if now.spills != before.spills:
        yield f"{end}: {_spills(now.spills, before.spills)}", now.spills - before.spills
    if now.occupancy != before.occupancy:
        fewer = before.occupancy - now.occupancy
        yield f"{end}: {before.occupancy} -> {now.occupancy} threads", fewer
    if abs(registers) >= NOTABLE or (registers and now.occupancy != before.occupancy):
        yield f"{end}: {registers:+} registers", registers


def _spills(now: int, before: int) -> str:
    if not before:
        return f"new spill, {now}"
    return f"{now - before:+} spills" if now else "no spill any more"
