"""Source lines of code addresses, from the compiler's debug information.

Reads it with ``llvm-symbolizer`` or ``addr2line``, on macOS with ``atos``. Where there is none,
findings at loads and stores have no line; those at collectives have one all the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

Place = tuple[str, int]

_SECONDS = 60.0
_ATOS_PLACE = re.compile(r"\((?P<file>[^()]+):(?P<line>\d+)\)\s*$", re.MULTILINE)


def source_lines(library: Path, offsets: Iterable[int], headers: Path) -> dict[int, Place]:
    """File and line of addresses in a library.

    Args:
        library: The library.
        offsets: Addresses, counted from where the library is loaded.
        headers: Files below this directory are ours: their callers are looked for instead.

    Returns:
        What could be found.
    """
    wanted = sorted(set(offsets))
    chains = _inline_chains(library, wanted) if wanted else []
    found = {}
    for offset, chain in zip(wanted, chains, strict=False):
        place = _outside(chain, headers)
        if place is not None:
            found[offset] = place
    return found


def _inline_chains(library: Path, offsets: Sequence[int]) -> list[list[Place]]:
    """For each address the places of the calls that were inlined into it, innermost first."""
    tool = _tool(os.environ.get("PATH", ""))
    if tool == "atos":
        command = ("atos", "-i", "-fullPath", "-o", str(library), "-offset")
        return [_parse_atos(_output((*command, f"{offset:#x}"), "")) for offset in offsets]
    addresses = "".join(f"{offset:#x}\n" for offset in offsets)
    if tool == "addr2line":
        return _parse(_output((tool, "-a", "-i", "-e", str(library)), addresses))
    if tool == "llvm-symbolizer":
        command = (tool, "--output-style=GNU", "-a", "-i", "-e", str(library))
        return _parse(_output(command, addresses))
    return []


@lru_cache(maxsize=8)
def _tool(path: str) -> str:
    tools = ("llvm-symbolizer", "addr2line", "atos")
    return next((tool for tool in tools if shutil.which(tool, path=path)), "")


def _output(command: Sequence[str], text: str) -> str:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _parse(output: str) -> list[list[Place]]:
    """Reads blocks of an address and then a ``file:line`` for each inlined call."""
    chains: list[list[Place]] = []
    for row in output.splitlines():
        if row.startswith("0x"):
            chains.append([])
            continue
        file, _, position = row.rpartition(":")
        digits = position.split(" ", 1)[0]
        if chains and digits.isdigit():
            chains[-1].append((os.path.normpath(file), int(digits)))
    return chains


def _parse_atos(output: str) -> list[Place]:
    return [
        (os.path.normpath(found["file"]), int(found["line"]))
        for found in _ATOS_PLACE.finditer(output)
    ]


def _outside(chain: Sequence[Place], headers: Path) -> Place | None:
    for file, line in chain:
        if line > 0 and not file.startswith("?") and not _is_below(file, headers):
            return file, line
    return None


def _is_below(file: str, directory: Path) -> bool:
    return Path(file).is_absolute() and directory in Path(file).parents
