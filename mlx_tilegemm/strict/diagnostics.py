"""Reads clang's log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .toolchain import INCLUDE

_DIAGNOSTIC = re.compile(r"^(.*?):(\d+):(\d+): (fatal error|error|warning|note): (.*)$")
# Extensions that Metal's compiler takes below C++17 and MLX's own kernels use are not listed.
_NEWER_THAN_CXX14 = (
    "class template argument deduction",
    "non-type template parameters declared with 'auto'",
    "decomposition declarations",
    "structured binding declarations",
)


@dataclass(slots=True)
class Diagnostic:
    """One line of clang's log, with the notes that follow it.

    Attributes:
        file: File that it is about.
        line: Line in it, from 1.
        column: Column, from 1.
        severity: Clang's word for it.
        message: What clang says.
        notes: What it adds.
    """

    file: str
    line: int
    column: int
    severity: str
    message: str
    notes: list[Diagnostic] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether Metal would refuse what it is about."""
        return self.severity != "warning" or self.message.startswith(_NEWER_THAN_CXX14)

    @property
    def is_in_headers(self) -> bool:
        """Whether it is about a strict header rather than the text."""
        return self.file.startswith(str(INCLUDE))

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


def diagnostics(log: str) -> list[Diagnostic]:
    """Clang's errors, and the warnings that are errors to Metal, with their notes."""
    found: list[Diagnostic] = []
    for match in filter(None, map(_DIAGNOSTIC.match, log.splitlines())):
        file, line, column, severity, message = match.groups()
        one = Diagnostic(file, int(line), int(column), severity, message)
        if severity != "note":
            found.append(one)
        elif found:
            found[-1].notes.append(one)
    return [one for one in found if one.refused]
