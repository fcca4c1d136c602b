"""The driver: compilers, the build cache, and what it does when something goes wrong."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mlx_tilegemm import emulator
from mlx_tilegemm.emulator import (
    KernelCompileError,
    Output,
    Settings,
    ToolchainError,
    cache,
    run_text,
    symbols,
    toolchain,
)

TEXT = """
#include <metal_stdlib>
using namespace metal;
// {salt}
kernel void twice(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {{ y[i] = 2 * x[i]; }}
"""
X = np.arange(8, dtype=np.float32)

PROGRAM = f"""
import sys
import threading
import numpy as np
from mlx_tilegemm.emulator import Output, run_text
x = np.arange(8, dtype=np.float32)
out = run_text({TEXT!r}.format(salt=sys.argv[1]), buffers=[x, Output(shape=(8,), dtype=np.float32)],
               grid=(8, 1, 1), threadgroup=(8, 1, 1)).outputs[1]
assert (out == 2 * x).all()
"""


def twice(salt, **settings):
    buffers = [X, Output(shape=(8,), dtype=np.float32)]
    text = TEXT.format(salt=salt)
    launched = run_text(
        text, buffers=buffers, grid=(8, 1, 1), threadgroup=(8, 1, 1), settings=Settings(**settings)
    )
    return launched.outputs[1]


def start(salt, root):
    environment = {**os.environ, "MLX_TILEGEMM_CACHE": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, salt], env=environment, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    root = tmp_path / "cache"
    monkeypatch.setenv("MLX_TILEGEMM_CACHE", str(root))
    return root


@pytest.fixture
def script(tmp_path):
    """Make an executable that stands in for a compiler."""

    def make(body):
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def probing(compile_body):
    """A compiler that answers questions like g++ and does `compile_body` when it should compile."""
    return f'for a in "$@"; do [ "$a" = -dM ] && exec g++ "$@"; done\n{compile_body}'


@pytest.mark.slow
def test_processes_that_build_the_same_kernel(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    finish(start("together", alone))
    processes = [start("together", shared) for _ in range(2)]
    for process in processes:
        finish(process)
    assert not list(shared.glob("tmp-*"))
    builds = {path.name for path in shared.glob("kernel-*")}
    assert builds
    assert builds == {path.name for path in alone.glob("kernel-*")}


@pytest.mark.slow
def test_damaged_builds_are_made_again(tmp_path):
    finish(start("damaged", tmp_path))
    libraries = [*tmp_path.glob("kernel-*/kernel.so"), *tmp_path.glob("runtime-*/*.so")]
    assert len(libraries) == 2
    sizes = {path: path.stat().st_size for path in libraries}
    for path in libraries:
        path.write_bytes(path.read_bytes()[: sizes[path] // 2])
    finish(start("damaged", tmp_path))
    assert {path: path.stat().st_size for path in libraries} == sizes


@pytest.mark.slow
def test_cache_that_cannot_be_written_to(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    finish(start("private", blocker / "below"))
    assert blocker.read_text() == ""


@pytest.mark.usefixtures("own_cache")
def test_nothing_is_kept_of_a_build_that_fails(own_cache):
    def fail(directory):
        (directory / "part").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ToolchainError, match="No space left"):
        cache.build("kernel-x", fail)
    assert [path.name for path in own_cache.iterdir()] == [".locks"]
    made = cache.build(
        "kernel-x", lambda directory: (directory / "part").write_text("whole") and None
    )
    assert (made / "part").read_text() == "whole"


def test_leftovers_of_killed_builds_go_away(own_cache):
    own_cache.mkdir()
    old, young = own_cache / "tmp-old", own_cache / "tmp-young"
    for path in (old, young):
        path.mkdir()
    os.utime(old, (1, 1))
    cache.build("x", lambda directory: None)
    assert not old.exists()
    assert young.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("kill -9 $$", "was killed"),
        ("echo 'fatal error: error writing: No space left on device' >&2; exit 1", "No space left"),
    ],
    ids=["killed", "disk-full"],
)
def test_compiler_that_breaks_off(own_cache, script, body, message):
    broken = script(probing(body))
    with pytest.raises(ToolchainError, match=message):
        twice(message, compiler=broken, registers=False)
    assert not list(own_cache.glob("kernel-*"))
    np.testing.assert_array_equal(twice(message, compiler="g++", registers=False), 2 * X)


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolchainError, match="Expected a C\\+\\+ compiler"):
        toolchain.find_compiler()


def test_compiler_of_the_user_comes_first(monkeypatch, script):
    own = script('exec g++ "$@"')
    monkeypatch.setenv("CXX", own)
    assert toolchain.find_compiler().command == (own,)


@pytest.mark.parametrize(
    ("macros", "message"),
    [
        ("#define __GNUC__ 11", "gcc 11 is older than 12"),
        (
            "#define __GNUC__ 4\n#define __clang__ 1\n#define __clang_major__ 14",
            "clang 14 is older",
        ),
        ("", "no C\\+\\+ compiler"),
    ],
    ids=["gcc", "clang", "other"],
)
def test_compiler_that_will_not_do(script, macros, message):
    with pytest.raises(ToolchainError, match=message):
        toolchain.find_compiler(script(f"cat <<'END'\n{macros}\nEND"))


@pytest.mark.slow
def test_wheel_compiler():
    pytest.importorskip("ziglang")
    np.testing.assert_array_equal(twice("wheel", compiler="zig"), 2 * X)
    with pytest.raises(emulator.KernelCheckError, match="out-of-bounds"):
        run_text(
            TEXT.format(salt="wheel").replace("x[i]", "x[i + 1]"),
            buffers=[X, Output(shape=(8,), dtype=np.float32)],
            grid=(8, 1, 1),
            threadgroup=(8, 1, 1),
            settings=Settings(compiler="zig"),
        )


FAULTS = """
#include <metal_stdlib>
using namespace metal;
#define PARAMETERS \\
  device float* x [[buffer(0)]], device float* y [[buffer(1)]], \\
  uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]
kernel void endless(PARAMETERS) {
  float s = x[i];
  while (s != 1234.5f) { s = s * 0.5f + x[0]; }
  y[i] = s;
}
kernel void silent(PARAMETERS) {
  uint s = t;
  while (s != 5u) { s = s * 2u; }
  y[i] = float(s);
}
kernel void waiting(PARAMETERS) {
  device atomic_uint* flag = reinterpret_cast<device atomic_uint*>(x);
  if (t == 1) { while (atomic_load_explicit(flag, memory_order_relaxed) == 0) {} }
  threadgroup_barrier(mem_flags::mem_device);
  y[i] = 1.0f;
}
kernel void handshake(PARAMETERS) {
  device atomic_uint* flag = reinterpret_cast<device atomic_uint*>(x);
  if (t == 1) { while (atomic_load_explicit(flag, memory_order_relaxed) == 0) {} }
  if (t == 40) { atomic_store_explicit(flag, 1, memory_order_relaxed); }
  y[i] = 1.0f;
}
kernel void null_pointer(PARAMETERS) {
  y[i] = reinterpret_cast<device float*>(ulong(x[0]))[i];
}
kernel void wild_pointer(PARAMETERS) {
  y[i] = x[ulong(i + 1) << 44];
}
kernel void division(PARAMETERS) {
  y[i] = float(7 / int(x[i]));
}
float descend(thread float* p, int n) {
  float a[100];
  for (int k = 0; k < 100; ++k) { a[k] = p[k % 10] + float(n); }
  return n <= 0 ? 0.0f : descend(a, n - 1) + a[n % 100];
}
kernel void recursion(PARAMETERS) {
  float a[100];
  for (int k = 0; k < 100; ++k) { a[k] = float(k); }
  y[i] = descend(a, 100000);
}
"""


def run_fault(kernel, checks, compiler="", time_limit=0.3):
    zeros = np.zeros(64, np.float32)
    return run_text(
        FAULTS,
        kernel=kernel,
        buffers=[zeros, Output(shape=(64,), dtype=np.float32)],
        grid=(64, 1, 1),
        threadgroup=(64, 1, 1),
        # Metal has no recursion, which the text needs to overflow its stack.
        settings=Settings(checks=checks, time_limit=time_limit, compiler=compiler, language=False),
    ).outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize("checks", ["strict", "off"])
@pytest.mark.parametrize(("kernel", "line"), [("endless", 9), ("silent", 14), ("waiting", 19)])
def test_time_limit(kernel, line, checks):
    with pytest.raises(emulator.KernelTimeoutError, match="time-limit") as caught:
        run_fault(kernel, checks)
    findings = caught.value.findings
    running = [finding for finding in findings if finding.message == "still runs"]
    assert [finding.line for finding in running] in ([line], [0])
    if kernel == "waiting":
        assert running[0].thread == (1, 0, 0)
        assert any("threadgroup_barrier" in finding.message for finding in findings)


@pytest.mark.parametrize("checks", ["strict", "off"])
@pytest.mark.parametrize(
    ("kernel", "line"),
    [("null_pointer", 30), ("wild_pointer", 33), ("division", 36), ("recursion", 0)],
)
def test_crashes_are_errors(kernel, line, checks):
    with pytest.raises(emulator.KernelCheckError) as caught:
        run_fault(kernel, checks)
    if line:
        assert {finding.line for finding in caught.value.findings} == {line}
    # The process goes on, and so do the workers.
    np.testing.assert_array_equal(twice("after", checks=checks), 2 * X)


@pytest.mark.parametrize("checks", ["strict", "off"])
def test_threads_that_wait_for_each_other(checks):
    np.testing.assert_array_equal(run_fault("handshake", checks, time_limit=60), np.ones(64))


FORK = f"""
import os
import sys
import numpy as np
from mlx_tilegemm.emulator import Output, run_text
x = np.arange(8, dtype=np.float32)
text = {TEXT!r}.format(salt=sys.argv[1])
def run(text):
    return run_text(text, buffers=[x, Output(shape=(8,), dtype=np.float32)], grid=(8, 1, 1),
                    threadgroup=(8, 1, 1)).outputs[1]
for _ in range(5):
    assert (run(text) == 2 * x).all()
child = os.fork()
if child == 0:
    # Other threads store to the same memory now.
    assert (run(text.replace("y[i]", "y[7 - i]")) == 2 * x[::-1]).all()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_child_of_a_fork(tmp_path):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", FORK, "fork"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_threads_that_launch_at_once():
    wrong = []

    def work(salt):
        for _ in range(20):
            if not (twice(f"thread {salt}") == 2 * X).all():
                wrong.append(salt)

    threads = [threading.Thread(target=work, args=(salt,)) for salt in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_lines_from_every_symbolizer(tmp_path, monkeypatch):
    printed = {
        "llvm-symbolizer": "0x10\\n/h/vec.h:3\\n././kernel.metal:7 (d 2)\\n0x20\\n??:0\\n",
        "addr2line": "0x0010\\n/h/vec.h:3\\n./kernel.metal:7\\n0x0020\\n??:?\\n",
        "atos": "load (in kernel.so) (/h/vec.h:3)\\nf (in kernel.so) (./kernel.metal:7)\\n",
    }
    for tool, output in printed.items():
        folder = tmp_path / tool
        folder.mkdir()
        (folder / tool).write_text(f"#!/bin/sh\nprintf '{output}'\n")
        (folder / tool).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        offsets = [0x10] if tool == "atos" else [0x10, 0x20]
        found = symbols.source_lines(Path("kernel.so"), offsets, Path("/h"))
        assert found == {0x10: ("kernel.metal", 7)}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert symbols.source_lines(Path("kernel.so"), [0x10], Path("/h")) == {}


def test_settings_are_checked():
    for wrong in (
        {"checks": "some"},
        {"order": "up"},
        {"workers": 65},
        {"time_limit": 0},
        {"threadgroup_bytes": -1},
    ):
        with pytest.raises(ValueError, match="Expected"):
            Settings(**wrong)
    with emulator.settings(order="reverse"):
        assert emulator.current_settings().order == "reverse"
    assert emulator.current_settings() == Settings()


def test_syntax_errors_are_the_compilers(own_cache):
    with pytest.raises(KernelCompileError, match=r"kernel\.metal:6:"):
        run_text(
            TEXT.format(salt="").replace("2 * x[i]", "2 * z[i]"),
            buffers=[X, Output(shape=(8,), dtype=np.float32)],
            grid=(8, 1, 1),
            threadgroup=(8, 1, 1),
        )
    assert not list(own_cache.glob("kernel-*"))
    assert not list(own_cache.glob("tmp-*"))
