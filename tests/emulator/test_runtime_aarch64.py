"""The runtime on AArch64, under qemu: the planted bugs are found there too."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bugs import CASES, expected, full_text

from mlx_tilegemm.emulator import FindingKind
from mlx_tilegemm.emulator.build import INCLUDE, RUNTIME
from mlx_tilegemm.emulator.rewrite import rewrite

HERE = Path(__file__).parent
FLAGS = (
    "-target",
    "aarch64-linux-musl",
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
CHECKED = (
    "-DMSL_RT_CHECKED",
    "-fsanitize=thread",
    "-fsanitize=bounds,shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow",
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-mllvm",
    "-tsan-instrument-read-before-write=1",
    "-fno-vectorize",
    "-fno-slp-vectorize",
)
REGISTERS = ("variable_never_set", "array_set_in_part", "index_never_set")
KINDS = {kind: number for number, kind in enumerate(FindingKind)}


def zig(folder, *arguments):
    command = [sys.executable, "-m", "ziglang", "c++", *FLAGS, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")
def test_planted_bugs_on_aarch64(tmp_path):
    pytest.importorskip("ziglang")
    rewritten = rewrite(full_text(), {})
    names = ", ".join(f"msl_entry_{number}" for number in range(len(CASES)))
    (tmp_path / "kernels.cpp").write_text(
        f'#include "msl/prelude_metal.h"\n{rewritten.text}\n'
        f"extern const msl_rt::Entry entries[] = {{{names}}};\n"
        f"extern const unsigned entry_count = {len(CASES)};\n"
    )
    zig(tmp_path, *CHECKED, f"-I{INCLUDE}", "-c", "kernels.cpp", "-o", "kernels.o")
    sources = [str(path) for path in sorted(RUNTIME.glob("*.cpp"))]
    main = str(HERE / "cross_main.cpp")
    zig(tmp_path, "-static", f"-I{RUNTIME}", main, *sources, "kernels.o", "-o", "program")
    done = subprocess.run(
        ["qemu-aarch64", "./program"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for case, line in zip(CASES, done.stdout.splitlines(), strict=True):
        mask = int(line.split()[1])
        found = {str(kind) for kind in FindingKind if mask >> KINDS[kind] & 1}
        if "race" in found:  # the driver drops what a race implies
            found.discard("uninitialized")
        wanted = {kind for _, kind in expected(full_text(), case, "clang")}
        if case.name in REGISTERS:  # found by the driver, which runs kernels twice
            wanted = set()
        if case.name == "rows_left_out":
            wanted = {"unwritten-output"}
        assert found == wanted, case.name
