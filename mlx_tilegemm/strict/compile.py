"""Compile Metal text with stock clang, without generating anything, as strictly as Metal would.

The dialect is C++ for OpenCL, whose address spaces are Metal's; the headers in ``include`` declare
Metal's library and MLX's prelude. What the dialect lets through is found in the syntax tree
(`tree`) and by `lint`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import tree
from .certain import is_certain, settled
from .diagnostics import Diagnostic, diagnostics
from .finding import Finding, Report
from .instantiate import instantiate
from .lint import words
from .syntax import read_tree
from .toolchain import (
    FLAGS,
    PRELUDE,
    Clang,
    ClangMissingError,
    HeadersMissingError,
    find_clang,
    precompiled_prelude,
)

TIMEOUT_SECONDS = 120.0

_OPTION = re.compile(r" \[-W[^]]*\]$")
_ATTRIBUTE = re.compile(r"\[\[[^][]*\]\]")
_BFLOAT_LITERAL = re.compile(r"(?<![\w.])((?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)[bB][fF]\b")


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


def check(
    text: str,
    name: str = "kernel.metal",
    *,
    prelude: Path = PRELUDE,
    include_dirs: Sequence[str | Path] = (),
) -> Report:
    """Compile one complete Metal text, without its MLX prelude, and report what is refused.

    Args:
        text: The text exactly as MLX generates it.
        name: Names the text, and its lines up to the first ``#line``.
        prelude: The header that stands before the text: MLX's prelude, or the standard library.
        include_dirs: Where the text's own includes are looked for.

    Returns:
        A report that is not ``checked`` where there is no clang or a strict header is missing; it
        says so.
    """
    try:
        clang = find_clang()
        precompiled_prelude(clang, prelude)
    except (ClangMissingError, HeadersMissingError) as missing:
        return Report(name=name, checked=False, tool=str(missing))
    return _check(clang, name, text, prelude, include_dirs)


def check_all(texts: Mapping[str, str], workers: int = 2) -> dict[str, Report]:
    """Check many texts, by name; see `check`."""
    with ThreadPoolExecutor(workers) as pool:
        reports = pool.map(lambda name: check(texts[name], name), texts)
        return dict(zip(texts, reports, strict=True))


def _check(
    clang: Clang, name: str, text: str, prelude: Path, include_dirs: Sequence[str | Path]
) -> Report:
    source = f'#line 1 "{name}"\n{prepare(text)}'
    pch = str(precompiled_prelude(clang, prelude))
    flags = (*FLAGS, *(f"-I{path}" for path in include_dirs), "-include-pch", pch)
    what = ("-fsyntax-only", "-Xclang", "-ast-dump=json", "-")
    try:
        done = clang.run(*flags, *what, text=source, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return _unfinished(clang, name, f"no answer in {TIMEOUT_SECONDS:g} s")
    errors = diagnostics(done.stderr)
    if not errors and done.returncode:
        return _unfinished(clang, name, f"exit status {done.returncode}: {done.stderr[-500:]}")
    try:
        nodes = read_tree(done.stdout, source)
    except (ValueError, RecursionError) as error:
        return _unfinished(clang, name, f"its syntax tree cannot be read: {error}")
    varying = tree.varying_constants(nodes)
    findings = [_finding(error, is_certain(error, varying)) for error in errors]
    findings += tree.findings(nodes)
    declared = {node.name for node in nodes if node.place and node.kind.endswith("Decl")}
    return Report(
        name=name,
        checked=True,
        tool=clang.version,
        findings=settled(findings),
        foreign=frozenset(words(text) - declared),
    )


def _unfinished(clang: Clang, name: str, reason: str) -> Report:
    return Report(name=name, checked=False, tool=f"{clang.version}: {reason}")


def _finding(error: Diagnostic, certain: bool) -> Finding:
    """An error as a finding, at the text that led into a strict header."""
    place = error
    if error.is_in_headers:
        place = next((note for note in error.notes if not note.is_in_headers), error)
    return Finding(
        file=place.file,
        line=place.line,
        column=place.column,
        rule="compile",
        message=_OPTION.sub("", error.message),
        notes=tuple(str(note) for note in error.notes if note is not place),
        certain=certain,
    )
