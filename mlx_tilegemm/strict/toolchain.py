"""Find a clang that can check Metal text, and precompile the strict headers for it."""

from __future__ import annotations

import atexit
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ..core.progress import working

INCLUDE = Path(__file__).parent / "include"
PRELUDE = INCLUDE / "mlx_prelude.h"
STANDARD_LIBRARY = INCLUDE / "metal_stdlib"
ENVIRONMENT_VARIABLE = "MLX_TILEGEMM_CLANG"
OLDEST = 17
"""clang from here on computes in ``__bf16``."""

NEWEST_NAMED = 24
"""Highest version looked for under a name such as ``clang-19``."""

# C++ for OpenCL: the dialect of stock clang whose address spaces follow Metal's rules. Doubles,
# mutable globals and images are off; kernels take what Metal's kernels take.
FLAGS = (
    "-x",
    "cl",
    "-cl-std=clc++2021",
    # Any 64-bit target with __bf16; nothing is generated for it.
    "-target",
    "x86_64-unknown-linux-gnu",
    "-cl-no-stdinc",
    "-fdeclspec",
    "-Xclang",
    "-cl-ext=-all,+__opencl_c_generic_address_space,+cl_khr_fp16,"
    "+__cl_clang_non_portable_kernel_param_types,+__cl_clang_bitfields",
    "-Werror=global-constructors",
    "-Werror=missing-declarations",
    "-Werror=return-type",
    "-Werror=zero-length-array",
    "-Wpre-c++17-compat",
    # The functions of the strict headers are declared and not defined.
    "-Wno-undefined-inline",
    "-Wno-unknown-attributes",
    "-fno-caret-diagnostics",
    "-fno-color-diagnostics",
    "-ferror-limit=0",
    f"-I{INCLUDE}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clang:
    """A usable clang.

    Attributes:
        command: What starts it.
        version: First line of its ``--version``.
    """

    command: tuple[str, ...]
    version: str

    def run(
        self, *arguments: str, text: str | None = None, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, with ``text`` as its input."""
        with working("[strict] checking with clang"):
            return subprocess.run(
                [*self.command, *arguments],
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )


class ClangMissingError(Exception):
    """No usable clang; the message says what was looked for."""


class HeadersMissingError(Exception):
    """Strict headers that are not installed; the message names the first one missing."""


def find_clang() -> Clang:
    """Return the first usable clang.

    That is the command ``MLX_TILEGEMM_CLANG`` and nothing else if it is set; otherwise ``clang``,
    then ``clang-24`` and older ones by name, then the clang of the package ``ziglang``.

    Raises:
        ClangMissingError: There is none.
    """
    return _find(os.environ.get(ENVIRONMENT_VARIABLE))


@lru_cache(maxsize=4)
def _find(wanted: str | None) -> Clang:
    refusals = []
    for command in _commands(wanted):
        clang = Clang(command=command, version=_version(command))
        refusal = _refusal(clang)
        if refusal is None:
            return clang
        refusals.append(refusal)
    reason = "; ".join(refusals) or f"no clang {OLDEST} or newer is installed"
    raise ClangMissingError(f"{reason} (set {ENVIRONMENT_VARIABLE} to one)")


def _commands(wanted: str | None) -> Iterator[tuple[str, ...]]:
    if wanted:
        yield tuple(shlex.split(wanted))
        return
    versions = range(NEWEST_NAMED, OLDEST - 1, -1)
    for name in ("clang", *(f"clang-{version}" for version in versions)):
        path = shutil.which(name)
        if path:
            yield (path,)
    if find_spec("ziglang"):
        yield (sys.executable, "-m", "ziglang", "clang")


def _version(command: tuple[str, ...]) -> str:
    try:
        shown = Clang(command=command, version="").run("--version")
    except OSError:
        return ""
    return (shown.stdout.splitlines() or [""])[0]


def _refusal(clang: Clang) -> str | None:
    name = " ".join(clang.command)
    if not clang.version:
        return f"{name} cannot be run"
    found = re.search(r"clang version (\d+)", clang.version)
    if not found:
        return f"{name} does not say that it is clang"
    if int(found.group(1)) < OLDEST:
        return f"{name} is clang {found.group(1)}, older than {OLDEST}"
    return None


@lru_cache(maxsize=8)
def precompiled_prelude(clang: Clang, header: Path = PRELUDE) -> Path:
    """Return the strict headers as a precompiled header that lives as long as this process.

    Args:
        clang: What to compile it with, and for.
        header: The header that includes them.

    Raises:
        HeadersMissingError: A header is not there.
        ClangMissingError: This clang does not take the headers; the message holds its first error.
    """
    folder = Path(tempfile.mkdtemp(prefix="mlx_tilegemm_strict_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    out = folder / f"{header.stem}.pch"
    done = clang.run(*FLAGS, "-c", "-Xclang", "-emit-pch", "-o", str(out), str(header))
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        reason = (errors or [f"exit status {done.returncode}"])[0]
        if re.search("no such file|file not found", reason):
            raise HeadersMissingError(f"this installation lacks strict headers: {reason}")
        raise ClangMissingError(f"{clang.version} does not take the strict headers: {reason}")
    return out
