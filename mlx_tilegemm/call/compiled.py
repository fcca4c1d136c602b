"""Registers of texts by Mesa's compiler for M1, which `tools/agx` asks; docs/registers.md says how.

``compiled.tsv`` holds them by what the compiler sees of a text, so that no entry ever speaks of a
text that has changed. ``python tools/agx report --package`` writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2s
from pathlib import Path

TABLE = Path(__file__).with_name("compiled.tsv")

_UNSEEN = re.compile(r"^\s*#line .*$|\s*//.*$|^\s+|\s+$", re.MULTILINE)
_NAME = re.compile(r"(\[\[kernel\]\] void )\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Registers of a thread that the compiler wants: compiled, not measured.

    Attributes:
        low: Without moving code out of loops.
        high: With it, or the other way round: both are in ascending order.
        spills: Whether it spills at either end.
    """

    low: int
    high: int
    spills: bool

    def __str__(self) -> str:
        count = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        return f"{count} by Mesa's compiler for M1" + ", which spills" * self.spills


def identity(text: str) -> str:
    """Return a short name of what a compiler sees of a kernel's complete Metal text.

    Comments, line numbers and the kernel's own name are no part of that.
    """
    seen = _NAME.sub(r"\1kernel", _UNSEEN.sub("", text))
    return blake2s(seen.encode(), digest_size=6).hexdigest()


def compiled(text: str) -> Compiled | None:
    """Return what the compiler makes of a complete Metal text; None where nobody has asked it."""
    return _table().get(identity(text))


@lru_cache(maxsize=1)
def _table() -> dict[str, Compiled]:
    return dict(map(_read, TABLE.read_text(encoding="ascii").splitlines()[1:]))


def _read(line: str) -> tuple[str, Compiled]:
    name, low, high, spills = line.split("\t")
    return name, Compiled(low=int(low), high=int(high), spills=spills != "0")


def save(entries: dict[str, Compiled]) -> None:
    """Write the table anew.

    Args:
        entries: Registers by `identity`.
    """
    lines = (f"{name}\t{one.low}\t{one.high}\t{int(one.spills)}" for name, one in entries.items())
    head = "text\tlow\thigh\tspills"
    TABLE.write_text("\n".join([head, *sorted(lines), ""]), encoding="ascii")
    _table.cache_clear()
