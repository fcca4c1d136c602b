"""Find a clang that can check Metal text, and precompile the strict headers for it."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

INCLUDE = Path(__file__).parent / "include"
PRELUDE = INCLUDE / "mlx_prelude.h"
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
        path: The program.
        version: First line of its ``--version``.
    """

    path: str
    version: str


class ClangMissingError(Exception):
    """No usable clang; the message says what was looked for."""


def find_clang() -> Clang:
    """Return the first usable clang: ``MLX_TILEGEMM_CLANG``, ``clang``, then by version.

    Raises:
        ClangMissingError: There is none.
    """
    return _find(os.environ.get(ENVIRONMENT_VARIABLE))


@lru_cache(maxsize=4)
def _find(wanted: str | None) -> Clang:
    versions = range(NEWEST_NAMED, OLDEST - 1, -1)
    names = (wanted,) if wanted else ("clang", *(f"clang-{version}" for version in versions))
    refusals = []
    for name in names:
        path = shutil.which(name)
        refusal = _refusal(path) if path else f"{name} is not installed"
        if path and refusal is None:
            return Clang(path=path, version=_version(path))
        if path or wanted:
            refusals.append(refusal)
    reason = "; ".join(filter(None, refusals)) or f"no clang {OLDEST} or newer is installed"
    raise ClangMissingError(f"{reason} (set {ENVIRONMENT_VARIABLE} to one)")


def _version(path: str) -> str:
    shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return (shown.stdout.splitlines() or [""])[0]


def _refusal(path: str) -> str | None:
    found = re.search(r"clang version (\d+)", _version(path))
    if not found:
        return f"{path} does not say that it is clang"
    if int(found.group(1)) < OLDEST:
        return f"{path} is clang {found.group(1)}, older than {OLDEST}"
    return None


@lru_cache(maxsize=4)
def precompiled_prelude(clang: Clang) -> Path:
    """Return the strict headers as a precompiled header that lives as long as this process.

    Raises:
        ClangMissingError: This clang does not take the headers; the message holds its first error.
    """
    folder = Path(tempfile.mkdtemp(prefix="mlx_tilegemm_strict_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    out = folder / "mlx_prelude.pch"
    command = [clang.path, *FLAGS, "-c", "-Xclang", "-emit-pch", "-o", str(out), str(PRELUDE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        reason = (errors or [f"exit status {done.returncode}"])[0]
        raise ClangMissingError(f"{clang.version} does not take the strict headers: {reason}")
    return out
