"""Accesses that the lanes of simdgroups made together, by line of the kernel's text."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from . import native
from .report import Place, Subject, find_places, shown_file, source_line


class Space(str, Enum):
    """An address space that accesses are counted in."""

    DEVICE = "device"
    CONSTANT = "constant"
    THREADGROUP = "threadgroup"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessCount:
    """Accesses, each of a whole simdgroup: what its lanes do at one place for the n-th time.

    Neighbours that every lane uses one after the other, up to 16 bytes a lane, are one access.

    Args:
        accesses: How many.
        lanes: Lanes that took part, added up.
        bytes: Bytes that these asked for.
        transactions: In threadgroup memory, turns of the busiest of 32 banks of 4 bytes, which
            serve one word a turn, and that to any number of lanes. Elsewhere, lines of 128 bytes
            that an access touches.
        fewest_transactions: The same, were the words of each access spread as well as can be.
    """

    accesses: int = 0
    lanes: int = 0
    bytes: int = 0
    transactions: int = 0
    fewest_transactions: int = 0

    @property
    def conflicts(self) -> int:
        """Transactions beyond the fewest."""
        return self.transactions - self.fewest_transactions


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSite(AccessCount):
    """The accesses of one line to one buffer or threadgroup array.

    Args:
        file: The file that the kernel's text names, else an empty string.
        line: The line in it, 0 when unknown.
        source_line: The text of that line, empty when it is not at hand.
        buffer: Name of the buffer or of the threadgroup array.
        space: Its address space.
        stores: Whether it is stored to; atomic accesses other than loads count as stores.
    """

    file: str
    line: int
    source_line: str
    buffer: str
    space: Space
    stores: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Accesses:
    """Accesses of the simdgroups of a launch.

    Args:
        sites: By line of the text, in its order.
        threadgroup_lines: 128-byte lines of each buffer that a threadgroup touches, added up over
            the threadgroups: what has to reach the cores if each keeps what it has read.
        distinct_lines: Lines of each buffer that the launch touches at all.
    """

    sites: tuple[AccessSite, ...]
    threadgroup_lines: Mapping[str, int]
    distinct_lines: Mapping[str, int]

    def total(self, space: Space, *, stores: bool | None = None) -> AccessCount:
        """The accesses to an address space.

        Args:
            space: Which one.
            stores: Only stores, or only loads; None for both.
        """
        chosen = [
            site
            for site in self.sites
            if site.space is space and (stores is None or site.stores is stores)
        ]
        return AccessCount(**_sums(chosen))


def read_accesses(
    runtime: ctypes.CDLL,
    subject: Subject,
    constant: Sequence[bool],
    locate: Callable[[int], int | None],
) -> Accesses:
    """The accesses that the latest launch left in the runtime.

    Args:
        runtime: The runtime library.
        subject: The launch.
        constant: Which of its buffers are in the constant address space.
        locate: Gives the offset of a code address in the kernel's library.
    """
    records = _read_sites(runtime)
    places = find_places({record.pc for record in records}, subject, locate)
    groups: dict[tuple[Place, str, Space, bool], list[native.AccessSite]] = {}
    for record in records:
        place = places.get(record.pc, ("", 0))
        key = (place, *_owner(record, subject, constant), bool(record.stores))
        groups.setdefault(key, []).append(record)
    by_threadgroup, distinct = _read_lines(runtime, subject.buffers)
    return Accesses(
        sites=tuple(_site(key, groups[key], subject) for key in sorted(groups)),
        threadgroup_lines=by_threadgroup,
        distinct_lines=distinct,
    )


def _read_sites(runtime: ctypes.CDLL) -> list[native.AccessSite]:
    count = runtime.msl_rt_sites(None, 0)
    room = (native.AccessSite * max(count, 1))()
    runtime.msl_rt_sites(room, count)
    return list(room[:count])


def _read_lines(
    runtime: ctypes.CDLL, names: Sequence[str]
) -> tuple[dict[str, int], dict[str, int]]:
    found: tuple[dict[str, int], dict[str, int]] = ({}, {})
    counts = (ctypes.c_uint64(), ctypes.c_uint64())
    for index, name in enumerate(names):
        runtime.msl_rt_lines(index, *(ctypes.byref(count) for count in counts))
        for lines, count in zip(found, counts, strict=True):
            lines[name] = count.value
    return found


def _owner(
    record: native.AccessSite, subject: Subject, constant: Sequence[bool]
) -> tuple[str, Space]:
    if record.space != native.DEVICE_SPACE:
        return (record.name or b"").decode(errors="replace"), Space.THREADGROUP
    space = Space.CONSTANT if constant[record.owner] else Space.DEVICE
    return subject.buffers[record.owner], space


def _site(
    key: tuple[Place, str, Space, bool], records: Sequence[native.AccessSite], subject: Subject
) -> AccessSite:
    (file, line), buffer, space, stores = key
    return AccessSite(
        file=shown_file(file),
        line=line,
        source_line=source_line(subject.text, (shown_file(file), line)),
        buffer=buffer,
        space=space,
        stores=stores,
        **_sums(records),
    )


def _sums(parts: Iterable[AccessCount | native.AccessSite]) -> dict[str, int]:
    names = ("accesses", "lanes", "bytes", "transactions", "fewest_transactions")
    found = list(parts)
    return {name: sum(int(getattr(part, name)) for part in found) for name in names}
