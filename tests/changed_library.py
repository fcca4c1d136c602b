"""Copies of the library with a change, in which programs run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx_tilegemm

Edit = Callable[[str], str]


def changed_library(folder: Path, edits: Mapping[str, Edit]) -> Path:
    """Copy the package into a folder and edit files of it.

    Args:
        folder: Where to copy it to; programs run there import the copy.
        edits: What makes the new text of the old one, by the end of the file's path, which no
            other file's path has; that of a file that is not there yet is empty.
    """
    ignored = shutil.ignore_patterns("__pycache__")
    source = Path(mlx_tilegemm.__file__).parent
    package = shutil.copytree(source, folder / "mlx_tilegemm", ignore=ignored)
    for end, edit in edits.items():
        path = _path(package, end)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = edit(old)
        assert new != old, end
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new, encoding="utf-8")
    return folder


def _path(package: Path, end: str) -> Path:
    found = [path for path in package.rglob(Path(end).name) if path.as_posix().endswith(f"/{end}")]
    assert len(found) <= 1, found
    return found[0] if found else package / end


def with_path(*folders: Path) -> dict[str, str]:
    """Return the environment, where Python finds modules in folders first."""
    path = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def run_in(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments on a copy of the library."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=library,
        env=with_path(library),
        capture_output=True,
        text=True,
        check=False,
    )


def appended(text: str) -> Edit:
    """Return an edit that adds text at the end."""
    return lambda old: old + text


def replaced(old: str, new: str) -> Edit:
    """Return an edit that replaces a text which occurs once."""

    def edit(text: str) -> str:
        assert text.count(old) == 1, old
        return text.replace(old, new)

    return edit
