"""Source lines of code addresses, from the compiler's debug information."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

_SECONDS = 60.0


def source_lines(
    library: Path, offsets: Iterable[int], headers: Path
) -> dict[int, tuple[str, int]]:
    """File and line of addresses in a library.

    Args:
        library: The library.
        offsets: Addresses, counted from where the library is loaded.
        headers: Files below this directory are ours: their callers are looked for instead.

    Returns:
        What could be found.
    """
    wanted = sorted(set(offsets))
    if not wanted:
        return {}
    command = _tool(sys.platform, library)
    if command is None:
        return {}
    text = "".join(f"{offset:#x}\n" for offset in wanted)
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    chains = _parse(done.stdout, len(wanted))
    found = {}
    for offset, chain in zip(wanted, chains, strict=False):
        place = _outside(chain, headers)
        if place is not None:
            found[offset] = place
    return found


@lru_cache(maxsize=64)
def _tool(platform: str, library: Path) -> tuple[str, ...] | None:
    """A program that reads addresses and prints chains of inlined calls."""
    for name in ("llvm-symbolizer", "addr2line"):
        if shutil.which(name) is None:
            continue
        if name == "addr2line":
            return (name, "-a", "-i", "-e", str(library))
        return (name, "--output-style=GNU", "-a", "-i", "-e", str(library))
    return None


def _parse(output: str, count: int) -> list[list[tuple[str, int]]]:
    """One list of (file, line) for each address, innermost first."""
    chains: list[list[tuple[str, int]]] = []
    for row in output.splitlines():
        if row.startswith("0x"):
            chains.append([])
            continue
        file, _, position = row.rpartition(":")
        digits = position.split(" ", 1)[0]
        if chains and digits.isdigit():
            chains[-1].append((os.path.normpath(file), int(digits)))
    return chains[:count]


def _outside(chain: list[tuple[str, int]], headers: Path) -> tuple[str, int] | None:
    for file, line in chain:
        if line > 0 and not file.startswith("?") and not _is_below(file, headers):
            return file, line
    return None


def _is_below(file: str, directory: Path) -> bool:
    return Path(file).is_absolute() and directory in Path(file).parents
