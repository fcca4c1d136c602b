"""Compile Metal text with stock clang, without generating anything, as strictly as Metal would.

The dialect is C++ for OpenCL, whose address spaces are Metal's; the headers in ``include`` declare
Metal's library and MLX's prelude. What the dialect lets through is found in the syntax tree
(`tree`) and by `lint`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from . import tree
from .finding import Finding, Report
from .instantiate import instantiate
from .lint import words
from .syntax import read_tree
from .toolchain import (
    FLAGS,
    INCLUDE,
    Clang,
    ClangMissingError,
    HeadersMissingError,
    find_clang,
    precompiled_prelude,
)

TIMEOUT_SECONDS = 120.0

_DIAGNOSTIC = re.compile(r"^(.*?):(\d+):(\d+): (fatal error|error|warning|note): (.*)$")
_OPTION = re.compile(r" \[-W[^]]*\]$")
_ATTRIBUTE = re.compile(r"\[\[[^][]*\]\]")
_BFLOAT_LITERAL = re.compile(r"(?<![\w.])((?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)[bB][fF]\b")
# Extensions that Metal's compiler takes below C++17 and MLX's own kernels use are not listed.
_NEWER_THAN_CXX14 = (
    "class template argument deduction",
    "non-type template parameters declared with 'auto'",
    "decomposition declarations",
    "structured binding declarations",
)


def prepare(text: str) -> str:
    """Spell what C++ for OpenCL spells differently, keeping every line and column.

    Attributes only bind parameters, which `signature` checks; a bfloat literal becomes a cast.
    """
    text = _ATTRIBUTE.sub(_plain_attribute, instantiate(text))
    return _BFLOAT_LITERAL.sub(r"bfloat(\1f)", text)


def _plain_attribute(match: re.Match[str]) -> str:
    words = re.findall(r"\w+", match.group())
    plain = "kernel" if words and words[0] == "kernel" else ""
    return plain.ljust(len(match.group()))


def check(text: str, name: str = "kernel.metal") -> Report:
    """Compile one complete Metal text, without its MLX prelude, and report what is refused.

    Args:
        text: The text exactly as MLX generates it.
        name: Names the text, and its lines up to the first ``#line``.

    Returns:
        A report that is not ``checked`` where there is no clang or a strict header is missing; it
        says so.
    """
    return check_all({name: text}, workers=1)[name]


def check_all(texts: Mapping[str, str], workers: int = 2) -> dict[str, Report]:
    """Check many texts, by name; see `check`."""
    try:
        clang = find_clang()
        precompiled_prelude(clang)
    except (ClangMissingError, HeadersMissingError) as missing:
        return {name: Report(name=name, checked=False, tool=str(missing)) for name in texts}
    with ThreadPoolExecutor(workers) as pool:
        reports = pool.map(lambda item: _check(clang, *item), texts.items())
        return dict(zip(texts, reports, strict=True))


def _check(clang: Clang, name: str, text: str) -> Report:
    source = f'#line 1 "{name}"\n{prepare(text)}'
    try:
        done = _run(clang, source)
    except subprocess.TimeoutExpired:
        return _unfinished(clang, name, f"no answer in {TIMEOUT_SECONDS:g} s")
    findings = [*_diagnostics(done.stderr)]
    if not findings and done.returncode:
        return _unfinished(clang, name, f"exit status {done.returncode}: {done.stderr[-500:]}")
    nodes = read_tree(done.stdout, source)
    findings += tree.findings(nodes)
    declared = {node.name for node in nodes if node.place and node.kind.endswith("Decl")}
    return Report(
        name=name,
        checked=True,
        tool=clang.version,
        findings=tuple(sorted(dict.fromkeys(findings))),
        foreign=frozenset(words(text) - declared),
    )


def _run(clang: Clang, source: str) -> subprocess.CompletedProcess[str]:
    prelude = ("-include-pch", str(precompiled_prelude(clang)))
    what = ("-fsyntax-only", "-Xclang", "-ast-dump=json", "-")
    return clang.run(*FLAGS, *prelude, *what, text=source, timeout=TIMEOUT_SECONDS)


def _unfinished(clang: Clang, name: str, reason: str) -> Report:
    return Report(name=name, checked=False, tool=f"{clang.version}: {reason}")


@dataclass(slots=True)
class _Diagnostic:
    """One line of clang's log, with the notes that follow it."""

    file: str
    line: int
    column: int
    severity: str
    message: str
    notes: list[_Diagnostic] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether Metal would refuse what it is about."""
        return self.severity != "warning" or self.message.startswith(_NEWER_THAN_CXX14)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"

    def finding(self) -> Finding:
        """Return it as a finding, at the text that led into a strict header."""
        place = self
        if self.file.startswith(str(INCLUDE)):
            uses = (note for note in self.notes if not note.file.startswith(str(INCLUDE)))
            place = next(uses, self)
        return Finding(
            file=place.file,
            line=place.line,
            column=place.column,
            rule="compile",
            message=_OPTION.sub("", self.message),
            notes=tuple(str(note) for note in self.notes if note is not place),
        )


def _diagnostics(log: str) -> Iterator[Finding]:
    """Yield clang's errors, and the warnings that are errors to Metal, with their notes."""
    found: list[_Diagnostic] = []
    for match in filter(None, map(_DIAGNOSTIC.match, log.splitlines())):
        file, line, column, severity, message = match.groups()
        one = _Diagnostic(file, int(line), int(column), severity, message)
        if severity != "note":
            found.append(one)
        elif found:
            found[-1].notes.append(one)
    return (one.finding() for one in found if one.refused)
