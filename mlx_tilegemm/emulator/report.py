"""Turns the runtime's records of broken rules into findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..msl.lexer import LINE_MARKER
from . import native
from .build import INCLUDE, TEXT_NAME, read_variables
from .findings import Finding, FindingKind
from .symbols import source_lines
from .unset import Variable

Place = tuple[str, int]

_KINDS = tuple(FindingKind)
_ACCESSES = ("load", "store", "atomic access")
_COLLECTIVES = (
    "simd function",
    "simdgroup matrix operation",
    "simdgroup_barrier",
    "threadgroup_barrier",
)
_NOWHERE: Place = ("", 0)
_OF_ADDRESSES = (FindingKind.OUT_OF_BOUNDS, FindingKind.MISALIGNED, FindingKind.CRASH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The launch that records speak of.

    Args:
        kernel: Name of the kernel.
        text: Its Metal text.
        library: Path of its library.
        buffers: Names of its buffers, as the runtime counts them.
        element_sizes: Bytes of an element of each of them.
    """

    kernel: str
    text: str
    library: Path
    buffers: Sequence[str]
    element_sizes: Sequence[int]


def make_findings(
    records: Sequence[native.Finding], subject: Subject, locate: Callable[[int], int | None]
) -> tuple[Finding, ...]:
    """Findings for the records of a launch.

    Which of two conflicting accesses comes second depends on the order in which threads ran; what
    is reported does not.

    Args:
        records: The records.
        subject: What they speak of.
        locate: Gives the offset of a code address in the kernel's library.
    """
    places = _places(records, subject, locate)
    findings: dict[tuple[object, ...], Finding] = {}
    for record in records:
        other = places.get(record.other_pc, _NOWHERE)
        finding = _finding(record, _place(record, places, other), other, subject)
        key = (finding.kind, finding.file, finding.line, finding.other_line, finding.buffer)
        known = findings.get(key)
        if known is not None:
            finding = replace(known, count=known.count + finding.count)
        findings[key] = finding
    return _without_echoes(tuple(findings.values()))


def _places(
    records: Sequence[native.Finding], subject: Subject, locate: Callable[[int], int | None]
) -> dict[int, Place]:
    addresses = {pc for record in records for pc in (record.pc, record.other_pc) if pc}
    return find_places(addresses, subject, locate)


def find_places(
    addresses: Iterable[int], subject: Subject, locate: Callable[[int], int | None]
) -> dict[int, Place]:
    """File and line of code addresses, as far as they can be found.

    Args:
        addresses: The addresses.
        subject: The launch that they are of.
        locate: Gives the offset of a code address in the kernel's library.
    """
    offsets = {pc: locate(pc) for pc in addresses}
    inside = [offset for offset in offsets.values() if offset is not None]
    lines = source_lines(subject.library, inside, INCLUDE)
    return {
        pc: lines[offset]
        for pc, offset in offsets.items()
        if offset is not None and offset in lines
    }


def _place(record: native.Finding, places: dict[int, Place], other: Place) -> Place:
    if record.pc in places:
        return places[record.pc]
    if record.file:
        return record.file.decode(errors="replace"), record.line
    # A thread that was stopped outside the kernel's own code: its latest access.
    return other if _KINDS[record.kind] is FindingKind.TIME_LIMIT else _NOWHERE


def _without_echoes(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Drops what another finding implies.

    A load that races with a store may come before it and then find nothing written. An address that
    was never set may be any.
    """
    racing, unset = (
        {(found.file, found.line, found.buffer) for found in findings if found.kind is kind}
        for kind in (FindingKind.RACE, FindingKind.UNINITIALIZED)
    )
    return tuple(
        found
        for found in findings
        if (
            (found.file, found.line, found.buffer) not in racing
            if found.kind is FindingKind.UNINITIALIZED
            else found.kind not in _OF_ADDRESSES or (found.file, found.line, "") not in unset
        )
    )


def _finding(record: native.Finding, place: Place, other: Place, subject: Subject) -> Finding:
    kind = _KINDS[record.kind]
    buffer, item = _owner(record, subject)
    thread, other_thread = tuple(record.thread), tuple(record.other_thread)
    access, other_access = record.access, record.other_access
    # A load comes before a store, and of two stores the one that stands first in the text.
    if kind is FindingKind.RACE and (other_access, other) < (access, place):
        place, other = other, place
        thread, other_thread = other_thread, thread
        access, other_access = other_access, access
    file, line = shown_file(place[0]), place[1]
    return Finding(
        kind=kind,
        kernel=subject.kernel,
        file=file,
        line=line,
        source_line=source_line(subject.text, (file, line)),
        other_file=shown_file(other[0]),
        other_line=other[1],
        buffer=buffer,
        index=record.offset // item if buffer else None,
        thread=(thread[0], thread[1], thread[2]),
        threadgroup=(record.threadgroup[0], record.threadgroup[1], record.threadgroup[2]),
        count=record.count,
        message=(
            _race_message(record, access, other_access, place, other, other_thread, buffer, item)
            if kind is FindingKind.RACE
            else _unset_message(record, buffer, item, subject)
            if record.origin
            else _message(kind, record, buffer, item)
        ),
    )


def _owner(record: native.Finding, subject: Subject) -> tuple[str, int]:
    """Name of the buffer or array, and bytes of one element."""
    if record.owner == native.OWNER_BUFFER:
        return subject.buffers[record.owner_index], subject.element_sizes[record.owner_index]
    if record.owner == native.OWNER_STORAGE:
        name = (record.owner_name or b"").decode(errors="replace")
        return name, max(record.element_size, 1)
    return "", 1


def shown_file(file: str) -> str:
    """The name by which messages call a file."""
    return Path(file).name if Path(file).is_absolute() else file


def _race_message(
    record: native.Finding,
    access: int,
    other_access: int,
    place: Place,
    other: Place,
    other_thread: tuple[int, ...],
    buffer: str,
    item: int,
) -> str:
    group = "another" if record.in_other_threadgroup else "the same"
    barrier = record.text.decode(errors="replace")
    known = barrier and _is_between(barrier, place[1], other[1])
    missing = f"that orders the two in between: {barrier}" if known else "in between"
    if record.in_other_threadgroup:
        missing = "that could order the two"
    where = f"{shown_file(other[0])}:{other[1]}" if other[1] else "an unknown line"
    return (
        f"{_ACCESSES[access]} of element {record.offset // item} of '{buffer}' and "
        f"{_ACCESSES[other_access]} of it at {where} by thread {other_thread} of {group} "
        f"threadgroup, with no barrier {missing}"
    )


def _is_between(barrier: str, line: int, other_line: int) -> bool:
    """Whether a simdgroup's barrier stands between two lines: which came first is not known."""
    found = re.match(r"the simdgroup_barrier at line (\d+)", barrier)
    return not found or min(line, other_line) <= int(found[1]) <= max(line, other_line)


def _unset_message(record: native.Finding, buffer: str, item: int, subject: Subject) -> str:
    text: str = record.text.decode(errors="replace")
    what = text or "what happens here"
    if buffer:
        what = f"what is stored to element {record.offset // item} of '{buffer}'"
    return f"{what} depends on {_variable(record.origin, subject)}"


def _variable(origin: int, subject: Subject) -> str:
    """The variable that an origin stands for, in words."""
    # An origin is an offset of what the variable holds at first, plus one.
    if origin == native.INACTIVE_LANE:
        return "the value of a lane that is not active"
    offset = origin - 1
    for variable in read_variables(subject.library):
        is_ours = Path(INCLUDE) in Path(variable.file).parents
        if variable.offset <= offset < variable.offset + variable.size and not is_ours:
            return f"{_described(variable, subject)}, which was never set"
    return "a variable that was never set"


def _described(variable: Variable, subject: Subject) -> str:
    if not variable.line:
        return "a variable" if not variable.function else f"a variable of {variable.function}"
    file = shown_file(variable.file)
    name = _declared_name(variable.name, source_line(subject.text, (file, variable.line)))
    return f"{name} of {variable.function} ({file}:{variable.line})"


def _declared_name(name: str, line: str) -> str:
    """The name in the text: the compiler numbers variables that have the same."""
    for candidate in (name, name.rstrip("0123456789")):
        if re.search(rf"\b{re.escape(candidate)}\b", line):
            return f"'{candidate}'"
    return "a variable"


def _message(kind: FindingKind, record: native.Finding, buffer: str, item: int) -> str:
    text: str = record.text.decode(errors="replace")
    access = _ACCESSES[min(record.access, 2)]
    where = f"{access} of {record.size} bytes at element {record.offset // item} of '{buffer}'"
    if kind is FindingKind.UNWRITTEN_OUTPUT:
        return f"{record.size // item} elements of '{buffer}' from {record.offset // item} on"
    if kind is FindingKind.THREADGROUP_MEMORY:
        return f"{record.size} bytes of threadgroup memory, of which there are {record.offset}"
    if kind is FindingKind.MISALIGNED and buffer:
        element = record.offset // item
        return f"the address of element {element} of '{buffer}' is no multiple of {record.size}"
    if kind in (FindingKind.DIVERGENCE, FindingKind.TIME_LIMIT) and record.line:
        return f"{_COLLECTIVES[record.access]}: {text}"
    if not buffer:
        return text
    return f"{where}: {text}" if text else where


@lru_cache(maxsize=256)
def _lines_by_place(text: str) -> dict[Place, str]:
    """Source lines by the file and line that ``#line`` directives give them."""
    places: dict[Place, str] = {}
    file, line = TEXT_NAME, 1
    for row in text.split("\n"):
        marker = LINE_MARKER.match(row)
        if marker is None:
            places.setdefault((file, line), row.strip())
            line += 1
            continue
        line = int(marker["line"])
        file = marker["file"] if marker["file"] is not None else file
    return places


def source_line(text: str, place: Place) -> str:
    """The line at a place of a text, empty when it is not of the text itself."""
    return _lines_by_place(text).get(place, "")
