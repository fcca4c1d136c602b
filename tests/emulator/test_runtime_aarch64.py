"""The runtime on AArch64, under qemu: the planted bugs are found there too."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import bugs
import pytest
import unset_cases

from mlx_tilegemm.emulator import FindingKind
from mlx_tilegemm.emulator.build import INCLUDE, RUNTIME
from mlx_tilegemm.emulator.rewrite import rewrite
from mlx_tilegemm.emulator.toolchain import FROM_TEXT, TO_TEXT
from mlx_tilegemm.emulator.unset import make_unset

HERE = Path(__file__).parent
TARGET = ("-target", "aarch64-linux-musl")
FLAGS = (
    *TARGET,
    "-std=c++17",
    "-O1",
    "-w",
    "-fsigned-char",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fno-sanitize=undefined",
    "-mbranch-protection=none",
)
UNDEFINED = "shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow"
CHECKED = (
    "-DMSL_RT_CHECKED",
    "-fsanitize=thread",
    f"-fsanitize=bounds,{UNDEFINED}",
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-mllvm",
    "-tsan-instrument-read-before-write=1",
    "-fno-vectorize",
    "-fno-slp-vectorize",
)
TRACKED = (
    "-DMSL_RT_CHECKED",
    "-DMSL_RT_TRACKED",
    f"-fsanitize=alignment,bounds,{UNDEFINED}",
    "-Xclang",
    "-fsanitize=kernel-memory",
    "-fno-sanitize-memory-param-retval",
    "-fno-math-errno",
)
KINDS = {kind: number for number, kind in enumerate(FindingKind)}


def zig(folder, tool, *arguments):
    command = [sys.executable, "-m", "ziglang", tool, *FLAGS, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def write_kernels(folder, text, count):
    names = ", ".join(f"msl_entry_{number}" for number in range(count))
    (folder / "kernels.cpp").write_text(
        f'#include "msl/prelude_metal.h"\n{rewrite(text, {}).text}\n'
        f"extern const msl_rt::Entry entries[] = {{{names}}};\n"
        f"extern const unsigned entry_count = {count};\n"
    )


def compile_checked(folder):
    zig(folder, "c++", *CHECKED, f"-I{INCLUDE}", "-c", "kernels.cpp", "-o", "kernels.o")


def compile_tracked(folder):
    zig(folder, "clang", *TRACKED, f"-I{INCLUDE}", *TO_TEXT, "kernels.cpp", "-o", "kernels.ll")
    changed, _ = make_unset((folder / "kernels.ll").read_text())
    (folder / "kernels.ll").write_text(changed)
    zig(folder, "clang", *TRACKED, *FROM_TEXT, "kernels.ll", "-o", "kernels.o")


def findings(folder, mode):
    """Return the kinds of findings of every kernel, in order."""
    sources = [str(path) for path in sorted(RUNTIME.glob("*.cpp"))]
    main = str(HERE / "cross_main.cpp")
    zig(folder, "c++", "-static", f"-I{RUNTIME}", main, *sources, "kernels.o", "-o", "program")
    done = subprocess.run(
        ["qemu-aarch64", "./program", mode],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    masks = [int(line.split()[1]) for line in done.stdout.splitlines()]
    return [{str(kind) for kind in FindingKind if mask >> KINDS[kind] & 1} for mask in masks]


needs_qemu = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")


@pytest.mark.slow
@needs_qemu
@pytest.mark.parametrize("mode", ["checked", "tracked"])
def test_planted_bugs_on_aarch64(tmp_path, mode):
    pytest.importorskip("ziglang")
    write_kernels(tmp_path, bugs.full_text(), len(bugs.CASES))
    {"checked": compile_checked, "tracked": compile_tracked}[mode](tmp_path)
    for case, found in zip(bugs.CASES, findings(tmp_path, mode), strict=True):
        if "race" in found:  # the driver drops what a race implies
            found.discard("uninitialized")
        wanted = {kind for _, kind in bugs.expected(bugs.full_text(), case, mode)}
        if case.name == "rows_left_out":
            wanted = {"unwritten-output"}
        assert found == wanted, case.name


@pytest.mark.slow
@needs_qemu
def test_variables_on_aarch64(tmp_path):
    pytest.importorskip("ziglang")
    text = unset_cases.full_text()
    write_kernels(tmp_path, text, len(unset_cases.CASES))
    compile_tracked(tmp_path)
    for case, found in zip(unset_cases.CASES, findings(tmp_path, "tracked"), strict=True):
        wanted = {kind for _, kind in bugs.expected(text, case, "tracked")}
        assert found - {"crash", "out-of-bounds"} == wanted, case.name
