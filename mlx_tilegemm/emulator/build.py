"""Compiles the runtime library and kernels."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import KernelCompileError
from . import cache
from .rewrite import ConstantValue, hides_subscripts, needs_expansion, rewrite
from .signature import EntryPoint
from .toolchain import (
    FROM_TEXT,
    TO_TEXT,
    BuildMode,
    Compiler,
    compile_error,
    find_trackers,
    run_compiler,
)
from .unset import Variable, make_unset

_HERE = Path(__file__).parent
INCLUDE = _HERE / "include"
RUNTIME = _HERE / "runtime"
_RUNTIME_NAME = "libmsl_runtime.so"
_KERNEL_NAME = "kernel.so"
_VARIABLES_NAME = "variables.json"
# What messages call a text that has no #line of its own.
TEXT_NAME = "kernel.metal"
# Unrolled, small arrays become registers, which cost no checks.
_UNROLL_PRAGMA = re.compile(r"^[ \t]*#[ \t]*pragma clang loop unroll\(full\)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltKernel:
    """A compiled text.

    Args:
        library: Path of the shared library.
        entries: What it exports; ``msl_entry_<position>`` runs one.
        text: The Metal text that was compiled.
        is_tracked: Whether it knows of its values whether they were set.
    """

    library: Path
    entries: tuple[EntryPoint, ...]
    text: str
    is_tracked: bool


@lru_cache(maxsize=1)
def _headers_digest() -> str:
    paths = sorted(path for path in INCLUDE.rglob("*") if path.is_file())
    return cache.digest(part for path in paths for part in (str(path), path.read_bytes()))


@lru_cache(maxsize=1)
def _runtime_digest() -> str:
    paths = sorted(path for path in RUNTIME.iterdir() if path.suffix in (".h", ".cpp"))
    paths += [INCLUDE / "executor" / "runtime.h", INCLUDE / "msl" / "thread.h"]
    return cache.digest(part for path in paths for part in (path.name, path.read_bytes()))


@lru_cache(maxsize=1)
def _editor_digest() -> str:
    return cache.digest(((_HERE / "unset.py").read_bytes(), *FROM_TEXT))


@lru_cache(maxsize=8)
def build_runtime(compiler: Compiler) -> Path:
    """Path of the runtime library, built if need be."""
    flags = (
        *compiler.flags(BuildMode.FAST),
        # The context switch returns to places that no call came from.
        "-fcf-protection=none" if _is_x86() else "-mbranch-protection=none",
        "-U_FORTIFY_SOURCE",
        *_thread_flags(),
    )
    key = "runtime-" + cache.digest((_runtime_digest(), compiler.identity, *flags))

    def make(directory: Path) -> None:
        # As one source, which takes half the time.
        includes = (f'#include "{path}"\n' for path in sorted(RUNTIME.glob("*.cpp")))
        (directory / "runtime.cpp").write_text("".join(includes), encoding="utf-8")
        arguments = [
            *flags,
            "runtime.cpp",
            *_runtime_link_flags(compiler, key),
            "-o",
            _RUNTIME_NAME,
        ]
        done = run_compiler(compiler, arguments, directory, "compiling its runtime")
        if done.returncode != 0:
            raise compile_error(done.stderr, directory, "the emulator's runtime")

    return cache.build(key, make) / _RUNTIME_NAME


def _thread_flags() -> tuple[str, ...]:
    # Loaded late, the runtime still finds room in the static block for its one variable of this
    # kind, which then costs one instruction to read.
    return ("-ftls-model=initial-exec",) if sys.platform == "linux" else ()


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _runtime_link_flags(compiler: Compiler, key: str) -> list[str]:
    if sys.platform == "darwin":
        return ["-dynamiclib"]
    return ["-shared", f"-Wl,-soname,{key}", "-Wl,-z,now", "-lpthread", "-ldl"]


def _stamps() -> str:
    # Precompiled headers are refused when the files they came from look newer.
    paths = sorted(path for path in INCLUDE.rglob("*") if path.is_file())
    return " ".join(f"{path} {path.stat().st_mtime_ns}" for path in paths)


@lru_cache(maxsize=16)
def _prelude_flags(compiler: Compiler, prelude: str, mode: BuildMode) -> tuple[str, ...]:
    """Options that include the prelude, precompiled: it is most of what a kernel costs."""
    flags = compiler.flags(mode)
    key = "prelude-" + cache.digest(
        (_headers_digest(), _stamps(), compiler.identity, prelude, *flags)
    )
    output = "prelude.h.gch" if compiler.family == "gcc" else "prelude.pch"

    def make(directory: Path) -> None:
        source = str(INCLUDE / prelude)
        arguments = [*flags, f"-I{INCLUDE}", "-w", "-x", "c++-header", source, "-o", output]
        done = run_compiler(compiler, arguments, directory, "compiling its headers")
        if done.returncode != 0:
            raise compile_error(done.stderr, directory, "the emulator's prelude")

    directory = cache.build(key, make)
    if compiler.family == "gcc":
        return ("-include", str(directory / "prelude.h"))
    return ("-include-pch", str(directory / "prelude.pch"))


def build_kernel(
    compiler: Compiler,
    text: str,
    *,
    prelude: str,
    mode: BuildMode,
    function_constants: Mapping[int | str, ConstantValue],
    include_dirs: Sequence[str],
    linker: Compiler | None = None,
) -> BuiltKernel:
    """Compiles a Metal text.

    Args:
        compiler: The compiler.
        text: The text.
        linker: What links it, with the runtime that this compiled; by default the same.
        prelude: The header of ours that comes before it.
        mode: What to compile it for.
        function_constants: Values by index or name.
        include_dirs: Where its own includes are looked for.

    Raises:
        KernelCompileError: The text does not compile.
        ToolchainError: The compiler cannot do its work.
    """
    constants = tuple(sorted(function_constants.items(), key=repr))
    return _build_kernel(
        compiler, linker or compiler, text, prelude, mode, constants, tuple(include_dirs)
    )


@lru_cache(maxsize=4096)
def _build_kernel(
    compiler: Compiler,
    linker: Compiler,
    text: str,
    prelude: str,
    mode: BuildMode,
    constants: tuple[tuple[int | str, ConstantValue], ...],
    include_dirs: tuple[str, ...],
) -> BuiltKernel:
    runtime = build_runtime(linker)
    source = text
    if include_dirs or needs_expansion(text) or hides_subscripts(text):
        source = _expand(compiler, text, prelude, include_dirs)
    rewritten = rewrite(source, dict(constants))
    code = f'#line 1 "{TEXT_NAME}"\n{rewritten.text}'
    if compiler.family == "gcc":
        code = _UNROLL_PRAGMA.sub(r"#pragma GCC unroll 64", code)
    flags = compiler.flags(mode)
    made_by = (compiler.identity, linker.identity, _editor_digest(), *flags)
    key = "kernel-" + cache.digest(
        (code, prelude, runtime.parent.name, _headers_digest(), *made_by)
    )

    def make(directory: Path) -> None:
        (directory / "kernel.cpp").write_text(code, encoding="utf-8")
        compile_flags = (
            *flags,
            "-w",
            f"-ffile-prefix-map={directory}=.",
            *_prelude_flags(compiler, prelude, mode),
            f"-I{INCLUDE}",
        )
        if mode is BuildMode.TRACKED:
            _compile_tracked(compiler, linker, compile_flags, runtime, directory)
        else:
            _compile_kernel(compiler, compile_flags, runtime, directory)

    library = cache.build(key, make) / _KERNEL_NAME
    return BuiltKernel(
        library=library,
        entries=rewritten.entries,
        text=text,
        is_tracked=mode is BuildMode.TRACKED,
    )


def _compile_kernel(
    compiler: Compiler, flags: Sequence[str], runtime: Path, directory: Path
) -> None:
    if compiler.is_zig:
        # In one step it would link its own sanitizer run-time.
        _run_step(compiler, (*flags, "-c", "kernel.cpp", "-o", "kernel.o"), directory)
        _link(compiler, runtime, directory)
    else:
        link = _link_flags(compiler, runtime)
        _run_step(compiler, (*flags, "kernel.cpp", *link), directory)


def _compile_tracked(
    compiler: Compiler, linker: Compiler, flags: Sequence[str], runtime: Path, directory: Path
) -> None:
    variables = _compile_object(compiler, flags, directory)
    _link(linker, runtime, directory)
    rows = [asdict(variable) for variable in variables]
    (directory / _VARIABLES_NAME).write_text(json.dumps(rows), encoding="utf-8")


def _compile_object(
    compiler: Compiler, flags: Sequence[str], directory: Path
) -> tuple[Variable, ...]:
    """Compiles by way of LLVM's text, in which the variables are made unset."""
    _run_step(compiler, (*flags, *TO_TEXT, "kernel.cpp", "-o", "kernel.ll"), directory)
    text = directory / "kernel.ll"
    changed, variables = make_unset(text.read_text(encoding="utf-8"))
    text.write_text(changed, encoding="utf-8")
    flags = (*compiler.flags(BuildMode.TRACKED), *FROM_TEXT)
    _run_step(compiler, (*flags, "kernel.ll", "-o", "kernel.o"), directory)
    text.unlink()
    return variables


def _link(linker: Compiler, runtime: Path, directory: Path) -> None:
    arguments = ("-fno-sanitize=undefined", "kernel.o", *_link_flags(linker, runtime))
    _run_step(linker, arguments, directory)
    (directory / "kernel.o").unlink()


def _link_flags(compiler: Compiler, runtime: Path) -> tuple[str, ...]:
    # macOS finds the runtime's functions in what the process has loaded.
    libraries = () if sys.platform == "darwin" else (str(runtime),)
    return (*libraries, *compiler.library_flags(), "-o", _KERNEL_NAME)


def _run_step(compiler: Compiler, arguments: Sequence[str], directory: Path) -> None:
    done = run_compiler(compiler, arguments, directory, "compiling a kernel")
    if done.returncode != 0:
        raise compile_error(done.stderr, directory, "the kernel")


def read_variables(library: Path) -> tuple[Variable, ...]:
    """The variables of a tracked kernel.

    Args:
        library: Path of its library.
    """
    rows = json.loads(library.with_name(_VARIABLES_NAME).read_text(encoding="utf-8"))
    return tuple(Variable(**row) for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """What compiles tracked kernels.

    Args:
        compiler: The compiler, None where there is none.
        reason: Why there is none.
    """

    compiler: Compiler | None
    reason: str = ""


def find_tracker(preferred: str) -> Tracker:
    """The compiler for tracked kernels, once it has proved that it has the instrumentation.

    Args:
        preferred: A command that must be used, as for :func:`toolchain.find_compiler`.
    """
    compilers, refused = find_trackers(preferred)
    for compiler in compilers:
        reason = _lack(compiler)
        if not reason:
            return Tracker(compiler=compiler)
        refused = (*refused, reason)
    return Tracker(compiler=None, reason="; ".join(refused))


_PROBE = """
extern "C" float probe(const float* x) { float v; if (x[0] > 0.0f) v = x[0]; return v; }
"""
_TRACKING_NAMES = (b"msl_rt_unset", b"__msan_metadata_ptr_for_load_4", b"__msan_get_context_state")


@lru_cache(maxsize=16)
def _lack(compiler: Compiler) -> str:
    """What a compiler lacks for tracked kernels, empty when it lacks nothing."""
    flags = compiler.flags(BuildMode.TRACKED)

    def make(directory: Path) -> None:
        (directory / "kernel.cpp").write_text(_PROBE, encoding="utf-8")
        try:
            _compile_object(compiler, flags, directory)
            code = (directory / "kernel.o").read_bytes()
            lack = "" if all(name in code for name in _TRACKING_NAMES) else "is not instrumented"
        except KernelCompileError as error:
            lack = str(error)
        (directory / "lack").write_text(lack, encoding="utf-8")

    key = "tracker-" + cache.digest((compiler.identity, _editor_digest(), _PROBE, *flags))
    lack = (cache.build(key, make) / "lack").read_text(encoding="utf-8")
    return lack and f"{' '.join(compiler.command)}: {lack}"


def _expand(compiler: Compiler, text: str, prelude: str, include_dirs: tuple[str, ...]) -> str:
    """Runs the preprocessor, keeping the words of Metal that the rewriter looks for."""
    key = "expanded-" + cache.digest((text, prelude, *include_dirs))
    result: list[str] = []

    def make(directory: Path) -> None:
        (directory / "kernel.metal").write_text(text, encoding="utf-8")
        arguments = [
            *compiler.flags(BuildMode.FAST),
            "-E",
            "-w",
            "-DMSL_KEEP_KEYWORDS",
            f"-I{INCLUDE / 'overrides'}",
            *(f"-I{path}" for path in include_dirs),
            f"-I{INCLUDE}",
            "-imacros",
            str(INCLUDE / prelude),
            "-x",
            "c++",
            "kernel.metal",
        ]
        done = run_compiler(compiler, arguments, directory, "compiling a kernel")
        if done.returncode != 0:
            raise compile_error(done.stderr, directory, "the kernel")
        result.append(done.stdout)

    cache.scratch(key, make)
    return result[0]
