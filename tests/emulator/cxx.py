"""The compilers of this machine: small C++ programs for them, and the builds of kernels."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlx_tilegemm import emulator
from mlx_tilegemm.emulator.toolchain import find_trackers

INCLUDE = Path(emulator.__file__).parent / "include"
_FLAGS = (
    "-std=c++17",
    "-fsigned-char",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    f"-I{INCLUDE}",
)
_GCC_EXCESS = ("-fexcess-precision=16",)
_STRICT = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cxx:
    """One C++ compiler and a folder to work in."""

    command: str
    folder: Path

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        is_clang = "clang" in self.command
        excess = ("-Xclang", "-ffloat16-excess-precision=none") if is_clang else _GCC_EXCESS
        return subprocess.run(
            [self.command, *_FLAGS, *excess, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def library(self, name: str, source: str) -> ctypes.CDLL:
        """Compile and load a shared library; any warning is a failure."""
        path = self.folder / f"{name}.so"
        (self.folder / f"{name}.cpp").write_text(source)
        done = self._run(*_STRICT, "-O0", "-fPIC", "-shared", f"{name}.cpp", "-o", str(path), "-lm")
        assert done.returncode == 0, done.stderr[:4000]
        return ctypes.CDLL(str(path))

    def errors(self, source: str) -> dict[int, str]:
        """Return the compiler's first error message per line of the source."""
        (self.folder / "rejected.cpp").write_text(source)
        unlimited = "-ferror-limit=0" if "clang" in self.command else "-fmax-errors=0"
        done = self._run("-w", "-fsyntax-only", unlimited, "rejected.cpp")
        found: dict[int, str] = {}
        message = asked = ""
        for line in done.stderr.splitlines():
            here = re.match(r"(?:In file included from )?rejected\.cpp:(\d+):", line)
            if ": error: " in line:
                message = line
                # gcc says where it was asked for a template before the error in it, clang after.
                where = here[1] if here else asked
                asked = ""
                if where:
                    found.setdefault(int(where), message)
            elif here and re.search("required from|In file included", line):
                asked = here[1]
            elif here and message and re.search("requested here|in expansion of macro", line):
                found.setdefault(int(here[1]), message)
        return found


def compilers() -> list[str]:
    """Return the C++ compilers of this machine that the headers support."""
    return [name for name in ("g++", "clang++-19", "clang++") if shutil.which(name)][:2]


TRACKED = "tracked"


def builds() -> list[str]:
    """Return the ways to build a kernel for the checks: tracked, and by each compiler."""
    return [TRACKED, *compilers()]


def choice_of(build: str) -> dict[str, Any]:
    """Return the settings that choose a build, or skip where this machine cannot make it."""
    if build != TRACKED:
        return {"compiler": build, "registers": False}
    compilers_found, reasons = find_trackers()
    if not compilers_found:
        pytest.skip("; ".join(reasons))
    assert emulator.unchecked(emulator.Settings()) == ()
    return {}


def settings_of(build: str, **fields: Any) -> emulator.Settings:
    """Return settings that choose a build."""
    return emulator.Settings(**choice_of(build), **fields)
