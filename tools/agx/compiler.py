"""Compiles a program with clang and Mesa's `asahi_clc`, and keeps what came out.

Clang is the one of the package ``ziglang``, whose back-end writes SPIR-V; `asahi_clc` is the
command that the environment variable ``MLX_TILEGEMM_ASAHI_CLC`` names; see docs/registers.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import IO, Any

from .dialect import ENTRY, Program
from .listing import scheduled
from .pressure import demand
from .spirv import prepare
from .steps import Step, main_step

ENVIRONMENT_VARIABLE = "MLX_TILEGEMM_ASAHI_CLC"
TIMEOUT_SECONDS = 120.0
"""Of each of the two compilers."""

INCLUDE = Path(__file__).parent / "include"

_FLAGS = (
    "-x",
    "cl",
    "-cl-std=clc++2021",
    "-cl-no-stdinc",
    "-fdeclspec",
    "-Xclang",
    "-cl-ext=-all,+__opencl_c_generic_address_space,+cl_khr_fp16,"
    "+__cl_clang_non_portable_kernel_param_types",
    "-Wno-everything",
    "-fno-color-diagnostics",
    "-O2",
    "-fno-vectorize",
    "-fno-slp-vectorize",
    "-ffp-contract=fast",
    # Without the names of a kernel's parameters `asahi_clc` crashes.
    "-fno-discard-value-names",
    # Metal's own layout names 8, 16 and 32 bits as widths of integers, so that no index of a loop
    # is made wider there.
    "-mllvm",
    "-indvars-widen-indvars=false",
    "--target=spirv64-unknown-unknown",
    f"-I{INCLUDE}",
)
# Clang moves what does not change out of loops, addresses above all, and Mesa never moves it back;
# a production compiler does something in between.
_NO_MOTION = ("-mllvm", "-opt-disable=licm")
_DEBUG = "shaderdb,shaders,demand,internal"
_READERS = ("listing", "pressure", "spirv", "steps")
_STATISTICS = re.compile(
    r"SHADER-DB: .*? (?P<instructions>\d+) inst, .*? (?P<scratch>\d+) scratch, "
    r"(?P<occupancy>\d+) threads, (?P<loops>\d+) loops, (?P<spills>\d+):(?P<fills>\d+) spills"
)
_ENDLESS = "Unhandled "
"""How a line begins that Mesa repeats for ever, of an instruction that it cannot translate."""

_SHARED = re.compile(r"^shared_size: (\d+)$", re.MULTILINE)


_Command = Sequence[str | Path]


class MissingError(Exception):
    """A compiler is not there; the message says which, and where it was looked for."""


class CompileError(Exception):
    """A compiler refused a program or did not end; the message holds what it said."""


class ExpiredError(CompileError):
    """A compiler did not end in time, which another time it may; no such refusal is kept."""


_REFUSED = "refused"
"""Name under which a refusal is kept in the place of a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What the compiler made of a program.

    Attributes:
        registers: 32-bit registers that the program wants at its widest point, also where there
            are fewer.
        in_loop: Whether that point is in a loop.
        occupancy: Threads of a core that the registers leave room for, of 1024.
        spills: Stores of registers that there was no room for.
        fills: Loads of these.
        instructions: Instructions of the whole kernel.
        threadgroup_bytes: Threadgroup memory, in bytes.
        step: One turn of the main loop.
    """

    registers: int
    in_loop: bool
    occupancy: int
    spills: int
    fills: int
    instructions: int
    threadgroup_bytes: int
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """A program compiled twice; what a GPU has is more likely between the two than at either.

    Attributes:
        low: Built without moving code out of loops.
        high: Built with it.
    """

    low: Build
    high: Build


class Compiler:
    """Both compilers, and the folder that keeps their results."""

    def __init__(self, asahi_clc: Path, zig: Path, cache: Path | None = None) -> None:
        """Use two programs.

        Args:
            asahi_clc: Mesa's.
            zig: The package ``ziglang``'s.
            cache: Where results are kept, by everything that they depend on; nowhere if None.
        """
        self._asahi_clc = asahi_clc
        self._zig = zig
        self._cache = cache

    @cached_property
    def identity(self) -> str:
        """Digest of the compilers, of the headers and of what works between and behind them."""
        parts = [self._asahi_clc.read_bytes(), self.clang_version.encode()]
        readers = (Path(__file__).parent / f"{name}.py" for name in _READERS)
        parts += [path.read_bytes() for path in (*sorted(INCLUDE.rglob("*.h")), *readers)]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    @property
    def description(self) -> str:
        """The compilers in words."""
        digest = hashlib.sha256(self._asahi_clc.read_bytes()).hexdigest()[:10]
        return f"{self.clang_version}, asahi_clc {digest}"

    @cached_property
    def clang_version(self) -> str:
        """First line of clang's ``--version``."""
        shown = subprocess.run(
            [self._zig, "clang", "--version"], capture_output=True, text=True, check=True
        )
        return shown.stdout.partition("\n")[0]

    def bracket(self, program: Program) -> Bracket:
        """Compile a program at both ends.

        Raises:
            CompileError: A compiler refused it.
        """
        return Bracket(low=self.build(program, _NO_MOTION), high=self.build(program, ()))

    def build(self, program: Program, flags: Sequence[str]) -> Build:
        """Compile a program, or return what came of it before.

        Raises:
            CompileError: A compiler refused it.
        """
        kept = self._place(program, flags)
        if kept is None:
            return self._compiled(program, flags)
        if kept.exists():
            return _read(json.loads(kept.read_text(encoding="utf-8")))
        try:
            build = self._compiled(program, flags)
        except ExpiredError:
            raise
        except CompileError as refusal:
            _keep(kept, {_REFUSED: str(refusal)})
            raise
        _keep(kept, asdict(build))
        return build

    def knows(self, program: Program) -> bool:
        """Whether both ends of a program have been compiled before, or one was refused."""
        for flags in (_NO_MOTION, ()):
            place = self._place(program, flags)
            if place is None or not place.exists():
                return False
            if _REFUSED in json.loads(place.read_text(encoding="utf-8")):
                return True
        return True

    def _place(self, program: Program, flags: Sequence[str]) -> Path | None:
        """Return where the result of a program is kept; None if nothing is."""
        if self._cache is None:
            return None
        parts = (self.identity, *_FLAGS[:-1], *flags, program.code)
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
        return self._cache / key[:2] / f"{key}.json"

    def _compiled(self, program: Program, flags: Sequence[str]) -> Build:
        return read_build(*self.run(program, flags))

    def run(self, program: Program, flags: Sequence[str]) -> tuple[str, str]:
        """Compile a program, and return the log and the statistics that `read_build` reads.

        Raises:
            CompileError: A compiler refused it.
        """
        with tempfile.TemporaryDirectory(prefix="agx-") as name:
            folder = Path(name)
            (folder / "kernel.cl").write_text(program.code, encoding="utf-8")
            _checked(self.clang(flags, "kernel.spv", "kernel.cl"), folder)
            module = folder / "kernel.spv"
            module.write_bytes(prepare(module.read_bytes()))
            return _checked([self._asahi_clc, "kernel.spv", "kernel.h", "kernel.c"], folder)

    def clang(self, flags: Sequence[str], out: str, source: str) -> list[str]:
        """Return the command that turns a source into SPIR-V."""
        return [str(self._zig), "clang", *_FLAGS, *flags, "-c", "-o", out, source]


def _checked(command: _Command, folder: Path) -> tuple[str, str]:
    """Run a compiler and return what it wrote.

    Raises:
        CompileError: It failed, or did not end, or found something that it goes on about for ever.
    """
    name = Path(command[0]).name
    said: list[str] = []
    with (folder / f"{name}.log").open("w+") as log, _started(command, folder, log) as process:
        timer = Timer(TIMEOUT_SECONDS, process.kill)
        timer.start()
        for line in process.stderr or ():
            said.append(line)
            if line.startswith(_ENDLESS):
                process.kill()
                break
        status = process.wait()
        expired = not timer.is_alive()
        timer.cancel()
        log.seek(0)
        written = log.read()
    if expired:
        raise ExpiredError(f"[agx] {name} did not end in {TIMEOUT_SECONDS:g} s.")
    if status:
        reason = "".join(said).strip() or f"ended with status {status}"
        raise CompileError(f"[agx] {name}: {reason[:2000]}")
    return written, "".join(said)


def _started(command: _Command, folder: Path, log: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "AGX_MESA_DEBUG": _DEBUG},
        stdout=log,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_build(log: str, statistics: str) -> Build:
    """Return what `asahi_clc` said of a kernel.

    Args:
        log: Its standard output: the printed shaders.
        statistics: Its standard error: a line of statistics.

    Raises:
        CompileError: One of them is missing.
    """
    found, shader = _STATISTICS.search(statistics), scheduled(log)
    if found is None or shader is None:
        raise CompileError(f"[agx] Expected statistics of {ENTRY}, got {statistics[:500]!r}.")
    wanted = demand(shader)
    return Build(
        registers=(wanted.halves + 1) // 2,
        in_loop=wanted.in_loop,
        occupancy=int(found["occupancy"]),
        spills=int(found["spills"]),
        fills=int(found["fills"]),
        instructions=int(found["instructions"]),
        threadgroup_bytes=max(map(int, _SHARED.findall(log)), default=0),
        step=main_step(shader),
    )


def _keep(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def _read(fields: dict[str, Any]) -> Build:
    if _REFUSED in fields:
        raise CompileError(fields[_REFUSED])
    return Build(**{**fields, "step": Step(**fields["step"])})


def find(cache: Path | None = None) -> Compiler:
    """Return the compilers of this machine.

    Raises:
        MissingError: One is not there.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        raise MissingError(
            f"{ENVIRONMENT_VARIABLE} does not name an asahi_clc; "
            "tools/agx/build_asahi_clc.sh builds one"
        )
    if not os.access(named, os.X_OK):
        raise MissingError(f"{named}, which {ENVIRONMENT_VARIABLE} names, cannot be run")
    package = find_spec("ziglang")
    if package is None or package.origin is None:
        raise MissingError("the package ziglang, whose clang writes SPIR-V, is not installed")
    return Compiler(Path(named).resolve(), Path(package.origin).parent / "zig", cache)
