"""Refuses text that Metal does not take although C++ does.

A C++ compiler knows nothing of address spaces. Where there is a clang, the strict check compiles
every text once more, in a dialect that does, and what it finds that holds for any text is an error:

- pointers and references that name no address space, and one given for another;
- variables at program scope, and static ones, that are not ``constant``;
- ``goto``, ``new``, ``delete``, ``virtual``, ``thread_local``, ``register``, ``dynamic_cast`` and
  ``typeid``;
- functions that can call themselves, and pointers to functions;
- arrays whose size is known at run time only.

Nothing is said about a line on which that clang meets something it does not know, and nothing of
what the strict check asks of this project's own kernels alone.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from .. import strict
from ..errors import KernelCompileError
from . import cache
from .findings import UncheckedWarning
from .report import shown_file, source_line

LANGUAGE = "whether kernels keep to Metal's address spaces and language"

_PRELUDES = {
    "msl/prelude_mlx.h": strict.PRELUDE,
    "msl/prelude_metal.h": strict.STANDARD_LIBRARY,
}
_VERDICT = "verdict.json"
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]+)[>\"]", re.MULTILINE)


@contextmanager
def checked_language(text: str, prelude: str, include_dirs: Sequence[str]) -> Iterator[None]:
    """Checks a text while the body of the ``with`` block compiles it.

    Args:
        text: The text.
        prelude: The header of ours that comes before it.
        include_dirs: Where its own includes are looked for.

    Raises:
        KernelCompileError: The body went well, but the text is not Metal.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="mlx_tilegemm-language") as pool:
        pending = pool.submit(judge, text, prelude, include_dirs)
        yield
    report = pending.result()
    if not report.checked:
        _warn(report.tool)
    elif report.findings:
        raise _refusal(report, text)


def missing_clang() -> str:
    """Why there is no clang to check the language with; empty where there is one."""
    try:
        strict.find_clang()
    except strict.ClangMissingError as missing:
        return str(missing)
    return ""


def judge(text: str, prelude: str, include_dirs: Sequence[str]) -> strict.Report:
    """The strict check's findings that hold for any text; verdicts are kept on disk.

    Args:
        text: The text.
        prelude: The header of ours that comes before it.
        include_dirs: Where its own includes are looked for.
    """
    unchecked: list[strict.Report] = []

    def make(directory: Path) -> None:
        report = strict.check(text, prelude=_PRELUDES[prelude], include_dirs=include_dirs)
        certain = [asdict(finding) for finding in report.findings if finding.certain]
        if report.checked:
            (directory / _VERDICT).write_text(json.dumps([report.tool, certain]), encoding="utf-8")
        else:
            unchecked.append(report)
            raise _UncheckedError

    included = _included(text, include_dirs)
    key = "language-" + cache.digest((_rules_digest(), prelude, text, *include_dirs, *included))
    try:
        tool, found = json.loads((cache.build(key, make) / _VERDICT).read_text(encoding="utf-8"))
    except _UncheckedError:
        return unchecked[0]
    findings = (strict.Finding(**{**one, "notes": tuple(one["notes"])}) for one in found)
    return strict.Report(name="", checked=True, tool=tool, findings=tuple(findings))


class _UncheckedError(Exception):
    """There is no verdict to keep."""


@lru_cache(maxsize=1)
def _rules_digest() -> str:
    """A name for the rules: a new one makes new verdicts."""
    root = Path(strict.__file__).parent
    paths = sorted(path for path in root.rglob("*") if path.suffix != ".pyc" and path.is_file())
    return cache.digest(part for path in paths for part in (path.name, path.read_bytes()))


def _included(text: str, include_dirs: Sequence[str]) -> list[bytes]:
    """Contents of the files that a text may include, by way of others too."""
    found: dict[Path, bytes] = {}
    pending = [text]
    while pending and include_dirs:
        for name in _INCLUDE.findall(pending.pop()):
            for path in (Path(directory) / name for directory in include_dirs):
                if path not in found and path.is_file():
                    found[path] = path.read_bytes()
                    pending.append(found[path].decode(errors="replace"))
    return [found[path] for path in sorted(found)]


@lru_cache(maxsize=16)
def _warn(reason: str) -> None:
    """Says once what is not checked."""
    warnings.warn(
        f"[emulator] Not checked: {LANGUAGE}: {reason}. `pip install ziglang` brings a clang; "
        "settings(language=False) goes without.",
        UncheckedWarning,
        stacklevel=2,
    )


def _refusal(report: strict.Report, text: str) -> KernelCompileError:
    findings = [_in_metal_words(finding) for finding in report.findings]
    listed = "\n".join(_shown(finding, text) for finding in findings)
    count = f"{len(findings)} finding" + ("s" if len(findings) > 1 else "")
    return KernelCompileError(
        f"[emulator] the kernel is not Metal: {count}.\n{listed}", tuple(findings)
    )


def _in_metal_words(finding: strict.Finding) -> strict.Finding:
    message, *notes = (strict.metal_words(words) for words in (finding.message, *finding.notes))
    return replace(finding, file=shown_file(finding.file), message=message, notes=tuple(notes))


def _shown(finding: strict.Finding, text: str) -> str:
    line = source_line(text, (finding.file, finding.line))
    first, *notes = str(finding).split("\n")
    return "\n".join(
        (f"  {first}", *([f"      {line}"] if line else []), *(f"  {n}" for n in notes))
    )
