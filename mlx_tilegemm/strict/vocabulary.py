"""The words a kernel may use without declaring them, each with where it is known from.

``vocabulary.tsv`` is written by ``tools/build_vocabulary.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .finding import Finding, Report

DATA = Path(__file__).parent / "vocabulary.tsv"
OLDEST_METAL = (3, 1)
"""The language version of macOS 14, the oldest that MLX supports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a word is known from.

    Attributes:
        header: A header of MLX's shipped kernels that uses it; empty if none does.
        chapter: Where the language or the Metal specification defines it; empty if not looked up.
        since: First Metal language version that has it, as the specification states.
    """

    header: str
    chapter: str
    since: str

    @property
    def known(self) -> bool:
        """Whether the word is there in the oldest Metal we support."""
        if self.header:
            return True
        version = tuple(int(part) for part in self.since.split(".")) if self.since else ()
        return bool(self.chapter) and version <= OLDEST_METAL


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, Origin]:
    """Return the list."""
    rows = [line.split("\t") for line in DATA.read_text(encoding="ascii").splitlines()[1:]]
    return {
        word: Origin(header=header, chapter=chapter, since=since)
        for word, header, chapter, since in rows
    }


def unknown_words(report: Report) -> tuple[Finding, ...]:
    """Return a finding for each word of a checked text, not declared there, that is not listed."""
    known = vocabulary()
    return tuple(
        Finding(
            file=report.name,
            line=0,
            column=0,
            rule="vocabulary",
            message=f"{word} is neither declared nor on the list of Metal's words",
        )
        for word in sorted(report.foreign)
        if word not in known or not known[word].known
    )
