"""Finds a C++ compiler and knows which options it needs. Runs nothing but the compiler."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

from ..core.progress import working
from ..errors import KernelCompileError, ToolchainError

COMPILE_SECONDS = 600.0
_OLDEST = {"gcc": 12, "clang": 16}

_COMMON = (
    "-std=c++17",
    "-fPIC",
    "-pipe",
    "-fvisibility=hidden",
    "-fsigned-char",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    # A loop that never ends must be found, not removed.
    "-fno-finite-loops",
    # Metal's safe mode contracts nothing, and half arithmetic rounds after each operation.
    "-ffp-contract=off",
    # Kernels read tiles through pointers to vectors.
    "-fno-strict-aliasing",
)
_UNDEFINED = (
    "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero,"
    "float-cast-overflow"
)
_CHECKED = (
    "-DMSL_RT_CHECKED",
    "-fsanitize=thread",
    _UNDEFINED,
    "-ftrivial-auto-var-init=pattern",
)
_TRACKED = (
    # A call of it does not tell whether the value was set.
    "-fno-builtin-memset",
    "-DMSL_RT_CHECKED",
    "-DMSL_RT_TRACKED",
    _UNDEFINED,
    # Behind the driver's back, which knows of the instrumentation on x86-64 only.
    "-Xclang",
    "-fsanitize=kernel-memory",
    # That a value is handed on is no use of it.
    "-fno-sanitize-memory-param-retval",
)
# From C++ to LLVM's text of a tracked kernel, and from there on.
TO_TEXT = ("-Xclang", "-disable-llvm-passes", "-S", "-emit-llvm")
FROM_TEXT = (
    "-c",
    "-w",
    # What was never set comes from one place; see unset.py.
    "-mllvm",
    "-msan-poison-stack=0",
    "-mllvm",
    "-msan-poison-undef=0",
    "-mllvm",
    "-msan-track-origins=1",
)
_TRACKER_EXPECTED = "it takes a clang (apt install clang or pip install ziglang)"
# Where the runtime was seen to work with it.
_TRACKING_MACHINES = (("linux", "x86_64"), ("linux", "aarch64"))
_CHECKED_BY_FAMILY = {
    "gcc": (
        # Plain bounds takes the array inside a vector for one of any length.
        "-fsanitize=bounds-strict",
        "--param=tsan-instrument-func-entry-exit=0",
    ),
    "clang": (
        "-mllvm",
        "-tsan-instrument-func-entry-exit=0",
        # Without this the load of `p[i] += x` goes unseen.
        "-mllvm",
        "-tsan-instrument-read-before-write=1",
        # Accesses of more than 16 bytes go unseen.
        "-fno-vectorize",
        "-fno-slp-vectorize",
    ),
}


class BuildMode(Enum):
    """The purpose that a kernel is compiled for."""

    FAST = "fast"
    # Instrumented for the checks.
    CHECKED = "checked"
    # Instrumented for the checks and to know of every value whether it was set.
    TRACKED = "tracked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A C++ compiler that was found to be good enough.

    Args:
        command: How to call it.
        family: ``"gcc"`` or ``"clang"``.
        version: Major version.
        identity: Tells it from any other compiler, and this machine's CPU from others.
    """

    command: tuple[str, ...]
    family: str
    version: int
    identity: str

    @property
    def is_zig(self) -> bool:
        """Whether this is the compiler of the ``ziglang`` wheel."""
        return "ziglang" in self.command

    def flags(self, mode: BuildMode) -> tuple[str, ...]:
        """Options for kernels."""
        # Checked kernels are many and short-lived: -O2 takes g++ four times as long for them.
        flags = [*_COMMON, "-O2" if mode is BuildMode.FAST else "-O1", *_cpu_flags(self)]
        flags += ["-gline-tables-only" if self.family == "clang" else "-g1"]
        if self.family == "clang":
            flags += ["-Xclang", "-ffloat16-excess-precision=none"]
        elif self.version >= 13:
            flags += ["-fexcess-precision=16"]
        if self.is_zig:
            flags += ["-fno-sanitize=undefined"]
        if mode is BuildMode.CHECKED:
            flags += [*_CHECKED, *_CHECKED_BY_FAMILY[self.family]]
        elif mode is BuildMode.TRACKED:
            flags += _TRACKED
        return tuple(flags)

    def library_flags(self) -> tuple[str, ...]:
        """Options that make a shared library without the sanitizers' own run-time."""
        if sys.platform == "darwin":
            return ("-dynamiclib", "-fno-sanitize-link-runtime", "-undefined", "dynamic_lookup")
        # -nodefaultlibs is what keeps gcc from linking that; -z now because a fiber that is stopped
        # while the dynamic linker holds its lock would hold it for ever.
        flags = ("-shared", "-nodefaultlibs", "-Wl,-z,now", "-lm", "-lgcc", "-lc")
        own = self.family == "clang" and not self.is_zig
        return ("-fno-sanitize-link-runtime", *flags) if own else flags


def _cpu_flags(compiler: Compiler) -> list[str]:
    if compiler.is_zig:
        return []  # native is its default
    if platform.machine() in ("x86_64", "AMD64"):
        return ["-march=native"]
    return ["-mcpu=native"]


def run_compiler(
    compiler: Compiler, arguments: Sequence[str], directory: Path, text: str
) -> subprocess.CompletedProcess[str]:
    """Runs the compiler in a directory that also takes its temporary files.

    Args:
        compiler: The compiler.
        arguments: Its arguments.
        directory: The directory.
        text: What it does, as a clause to show where it takes long.

    Raises:
        ToolchainError: The compiler could not be run, was killed or found no room on the disk.
    """
    environment = {**os.environ, "TMPDIR": str(directory), "LC_ALL": "C"}
    try:
        with working(f"[emulator] {text}"):
            done = subprocess.run(
                [*compiler.command, *arguments],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMPILE_SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(
            f"[emulator] {compiler.command[0]} did not finish in {COMPILE_SECONDS:.0f} s."
        ) from error
    except OSError as error:
        raise ToolchainError(f"[emulator] Could not run {compiler.command[0]}: {error}.") from error
    if done.returncode != 0:
        _raise_if_broken(compiler, done)
    return done


def _raise_if_broken(compiler: Compiler, done: subprocess.CompletedProcess[str]) -> None:
    """Tells failures of the machine from errors in the text."""
    if "No space left on device" in done.stderr:
        raise ToolchainError("[emulator] No space left on the disk to compile on.")
    if done.returncode < 0 or "terminated signal" in done.stderr or "Killed" in done.stderr:
        raise ToolchainError(
            f"[emulator] {compiler.command[0]} was killed while it compiled:\n{done.stderr[-2000:]}"
        )


def compile_error(log: str, directory: Path, title: str) -> KernelCompileError:
    """The error for a text that the compiler refuses."""
    shown = "\n".join(log.replace(f"{directory}{os.sep}", "").splitlines()[:80])
    return KernelCompileError(f"[emulator] {title} does not compile:\n{shown}")


def find_compiler(preferred: str = "") -> Compiler:
    """The compiler to use.

    Args:
        preferred: A command that must be used; by default ``$CXX``, ``g++``, ``clang++``, ``c++``
            and the ``ziglang`` package are tried in this order.

    Raises:
        ToolchainError: There is none, or none that is new enough.
    """
    return _find_compiler(preferred, os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@lru_cache(maxsize=64)
def _find_compiler(preferred: str, cxx: str, path: str) -> Compiler:
    refused = []
    for command in _candidates(preferred, cxx):
        found = _look_at(command, path)
        if isinstance(found, Compiler):
            return found
        refused.append(found)
    tried = "; ".join(refused) or "nothing to try"
    raise ToolchainError(
        "[emulator] Expected a C++ compiler, g++ 12 or clang 16 at least "
        f"(apt install g++, xcode-select --install or pip install ziglang), got: {tried}."
    )


def find_trackers(preferred: str = "") -> tuple[tuple[Compiler, ...], tuple[str, ...]]:
    """The compilers that may have the instrumentation for tracked kernels, the first to try first.

    Args:
        preferred: A command that must be used, as for :func:`find_compiler`.

    Returns:
        The compilers, and why others were passed over.
    """
    return _find_trackers(preferred, os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@lru_cache(maxsize=64)
def _find_trackers(
    preferred: str, cxx: str, path: str
) -> tuple[tuple[Compiler, ...], tuple[str, ...]]:
    machine = (sys.platform, platform.machine())
    if machine not in _TRACKING_MACHINES:
        return (), (f"clang's instrumentation was never tried on {' '.join(machine)}",)
    compilers, refused = [], []
    for command in _candidates(preferred, cxx):
        found = _look_at(_without_driver(command), path)
        if isinstance(found, str):
            refused.append(found)
        elif found.family != "clang":
            refused.append(f"{' '.join(command)}: is no clang")
        else:
            compilers.append(found)
    return tuple(compilers), (_TRACKER_EXPECTED, *refused)


def _without_driver(command: tuple[str, ...]) -> tuple[str, ...]:
    """The plain clang of the ``ziglang`` wheel, which starts in a tenth of the time."""
    spec = importlib.util.find_spec("ziglang") if "ziglang" in command else None
    if spec is None or spec.origin is None:
        return command
    return (str(Path(spec.origin).with_name("zig")), "clang")


def _look_at(command: tuple[str, ...], path: str) -> Compiler | str:
    """The compiler behind a command, or why it will not do."""
    if command[0] != sys.executable and shutil.which(command[0], path=path) is None:
        return f"{command[0]}: not found"
    return _probe(command)


def _candidates(preferred: str, cxx: str) -> list[tuple[str, ...]]:
    zig = (sys.executable, "-m", "ziglang", "c++")
    if preferred:
        return [zig if preferred == "zig" else tuple(preferred.split())]
    names = [tuple(cxx.split())] if cxx.split() else []
    names += [("g++",), ("clang++",), ("c++",)]
    if importlib.util.find_spec("ziglang") is not None:
        names.append(zig)
    return names


def _probe(command: tuple[str, ...]) -> Compiler | str:
    """The compiler behind a command, or why it will not do."""
    title = " ".join(command)
    try:
        done = subprocess.run(
            [*command, "-dM", "-E", "-x", "c++", os.devnull],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{title}: {error}"
    macros = _macros(done.stdout)
    if done.returncode != 0 or "__GNUC__" not in macros:
        return f"{title}: is no C++ compiler that works"
    family = "clang" if "__clang__" in macros else "gcc"
    version = int(macros["__clang_major__"] if family == "clang" else macros["__GNUC__"])
    if version < _OLDEST[family]:
        return f"{title}: {family} {version} is older than {_OLDEST[family]}"
    identity = "\n".join((title, _file_stamp(command), macros.get("__VERSION__", ""), _cpu()))
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return Compiler(command=command, family=family, version=version, identity=digest)


def _macros(text: str) -> dict[str, str]:
    macros = {}
    for line in text.splitlines():
        parts = line.split(None, 2)
        if len(parts) == 3 and parts[0] == "#define":
            macros[parts[1]] = parts[2]
    return macros


def _file_stamp(command: tuple[str, ...]) -> str:
    path = shutil.which(command[0])
    if path is None:
        return ""
    status = Path(path).resolve().stat()
    return f"{Path(path).resolve()} {status.st_size} {status.st_mtime_ns}"


def _cpu() -> str:
    """The features that -march=native stands for; home directories are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(kept)))
