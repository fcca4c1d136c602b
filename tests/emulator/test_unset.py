"""What was never set: every use is found at its line, in every launch, and nothing else is."""

from __future__ import annotations

import warnings

import mlx.core as mx
import numpy as np
import pytest
from bugs import expected
from cxx import TRACKED, settings_of
from test_bugs import SCHEDULES, findings_of
from unset_cases import CASES, full_text

from mlx_tilegemm import emulator
from mlx_tilegemm.emulator import KernelCheckError, Output, Settings, UncheckedWarning, run_text
from mlx_tilegemm.emulator import run as run_module
from mlx_tilegemm.emulator.unset import make_unset

TEXT = full_text()
X = np.linspace(1.0, 100.0, 256, dtype=np.float32)


@pytest.fixture(autouse=True)
def tracked():
    settings_of(TRACKED)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["order"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_use_of_what_was_never_set(case, schedule):
    found = findings_of(TEXT, case, Settings(**schedule))
    assert {(f.line, str(f.kind)) for f in found} == expected(TEXT, case, TRACKED), found
    assert not (found and case.name.endswith("_clean"))


def kernel(source, header=""):
    return emulator.metal_kernel("unset", ["x"], ["y"], source, header=header)


def launch(made, x, groups=1):
    return made(
        inputs=[x],
        output_shapes=[(32 * groups,)],
        output_dtypes=[mx.float32],
        grid=(32 * groups, 1, 1),
        threadgroup=(32, 1, 1),
    )[0]


def test_every_launch_is_checked():
    made = kernel(
        "uint i = thread_position_in_grid.x; float v; if (x[i] > 0.0f) v = x[i]; y[i] = v;"
    )
    one = mx.ones((32,))
    for _ in range(2):
        assert launch(made, one).tolist() == [1.0] * 32
        with pytest.raises(KernelCheckError) as caught:
            launch(made, -one)
        (finding,) = caught.value.findings
        assert (finding.kind, finding.count, finding.index) == ("uninitialized", 32, 0)
        assert finding.message.startswith("what is stored to element 0 of 'y' depends on 'v' of ")


@pytest.mark.parametrize("group", [1, 31, 62])
def test_every_threadgroup_is_checked(group):
    made = kernel(
        "uint i = thread_position_in_grid.x; uint t = threadgroup_position_in_grid.x; float v;"
        f"if (t != {group}u) v = x[i]; y[i] = v;"
    )
    with pytest.raises(KernelCheckError) as caught:
        launch(made, mx.ones((2048,)), groups=64)
    (finding,) = caught.value.findings
    assert (finding.threadgroup, finding.count) == ((group, 0, 0), 32)


def test_only_a_sample_is_checked_where_only_a_sample_runs():
    made = kernel(
        "uint i = thread_position_in_grid.x; uint t = threadgroup_position_in_grid.x; float v;"
        "if (t != 63u) v = x[i]; y[i] = v;"
    )
    with emulator.settings(sample=2), pytest.raises(KernelCheckError, match="'v' of"):
        launch(made, mx.ones((2048,)), groups=64)


TWO_PLACES = """
#include <metal_stdlib>
using namespace metal;
#line 10 "helper.h"
float helper(float value) {
  float left_out;
  if (value > 1.0f) { left_out = value; }
  return left_out;
}
#line 20 "main.metal"
kernel void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {
  const float first = helper(x[i]);
  y[i] = 2.0f * first;
}
"""


def test_findings_name_the_variable():
    with pytest.raises(KernelCheckError) as caught:
        run_text(
            TWO_PLACES,
            buffers=[np.ones(8, np.float32), Output(shape=(8,), dtype=np.float32)],
            grid=(8, 1, 1),
            threadgroup=(8, 1, 1),
        )
    (finding,) = caught.value.findings
    assert (finding.file, finding.line) == ("main.metal", 23)
    assert "depends on 'left_out' of helper (helper.h:11), which was never set" in finding.message


BYTES = """
#include <metal_stdlib>
using namespace metal;
kernel void f(device uchar* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  uchar v;
  if (i < LIMIT) { v = 7; }
  for (uint k = 0; k < 16; ++k) { y[16 * i + k] = v; }
}
"""


def test_stores_that_become_one():
    def run(limit):
        return run_text(
            BYTES.replace("LIMIT", str(limit)),
            buffers=[Output(shape=(32 * 16,), dtype=np.uint8)],
            grid=(32, 1, 1),
            threadgroup=(32, 1, 1),
        ).outputs[0]

    assert (run(32) == 7).all()
    with pytest.raises(KernelCheckError) as caught:
        run(31)
    assert {(f.kind, f.line, f.thread) for f in caught.value.findings} == {
        ("uninitialized", 7, (31, 0, 0))
    }


ATOMICS = """
#include <metal_stdlib>
using namespace metal;
kernel void f(device const float* x [[buffer(0)]], device atomic_uint* y [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {{
  uint v, expected;
  if (x[i] > {limit}f) {{
    v = expected = 1;
  }}
  {use}
}}
"""
USES = (
    "atomic_store_explicit(y + i, v, memory_order_relaxed);",
    "atomic_fetch_add_explicit(y + i, v, memory_order_relaxed);",
    "atomic_fetch_max_explicit(y + i, v, memory_order_relaxed);",
    "atomic_exchange_explicit(y + i, v, memory_order_relaxed);",
    "atomic_compare_exchange_weak_explicit(y + i, &expected, 2u, memory_order_relaxed, "
    "memory_order_relaxed);",
)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.split("(")[0])
def test_operands_of_atomic_functions(use):
    def run(limit):
        text = ATOMICS.format(use=use, limit=limit)
        buffers = [np.ones(32, np.float32), np.zeros(32, np.uint32)]
        return run_text(text, buffers=buffers, grid=(32, 1, 1), threadgroup=(32, 1, 1))

    run(0.0)
    with pytest.raises(KernelCheckError) as caught:
        run(1.0)
    (finding,) = caught.value.findings
    assert (finding.kind, finding.line) == ("uninitialized", 10)


def test_what_an_atomic_function_leaves_is_set():
    text = ATOMICS.format(
        limit=0.0,
        use="""expected = 7;
  atomic_compare_exchange_weak_explicit(y + i, &expected, 2u, memory_order_relaxed,
      memory_order_relaxed);
  uint old = atomic_fetch_add_explicit(y + i, expected, memory_order_relaxed);
  if (old == 3) { atomic_store_explicit(y + i, old, memory_order_relaxed); }""",
    )
    buffers = [np.ones(32, np.float32), np.full(32, 5, np.uint32)]
    out = run_text(text, buffers=buffers, grid=(32, 1, 1), threadgroup=(32, 1, 1)).outputs[1]
    np.testing.assert_array_equal(out, 10)


PADDED = """
#include <metal_stdlib>
using namespace metal;
struct Padded {{ float a; half b; }};
struct Large {{ float at[13]; half last; }};
kernel void f(device {type}* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {{
  {type} v;
  {body}
  y[i] = v;
}}
"""


@pytest.mark.parametrize(
    ("name", "body", "missing"),
    [
        ("Padded", "v.a = 1.0f; v.b = 2.0h;", "v.a = 1.0f;"),
        (
            "Large",
            "for (int k = 0; k < 13; ++k) { v.at[k] = 1.0f; } v.last = 1.0h;",
            "for (int k = 0; k < 13; ++k) { v.at[(k + i) % 12] = 1.0f; } v.last = 1.0h;",
        ),
        ("float3", "v.x = v.y = v.z = 1.0f;", "v.xz = float2(1.0f);"),
        ("uchar3", "v.x = v.y = v.z = 1;", "v.x = v.y = 1;"),
        ("half4", "v = half4(1.0h);", "v.xyz = half3(1.0h);"),
        ("packed_float3", "v = float3(1.0f);", "v.x = 1.0f;"),
    ],
)
def test_holes_of_what_is_stored_need_not_be_set(name, body, missing):
    def run(part):
        # Given contents, for holes stay unwritten.
        buffers = [np.zeros(64 * 56, np.uint8)]
        text = PADDED.format(type=name, body=part)
        run_text(text, buffers=buffers, grid=(64, 1, 1), threadgroup=(32, 1, 1))

    run(body)
    with pytest.raises(
        KernelCheckError, match=r"\[uninitialized\] what is stored to element (0|32) "
    ):
        run(missing)


DEEP = """
float deep(float v, int n) {
  return n <= 0 ? v : deep(v, n - 1) + 1.0f;
}
"""


def test_stacks_are_forgotten_between_launches():
    """What one launch leaves unset on the stacks is not found by the next one."""
    leaves = kernel(
        "uint i = thread_position_in_grid.x; float v[64]; float w[64];"
        "for (uint k = 0; k < 64; ++k) { w[k] = v[k]; } y[i] = x[i] + (x[i] > 2.0f ? w[i] : 0.0f);"
        "float last; deep(last, int(x[i]));",
        header=DEEP,
    )
    sets = kernel(
        "uint i = thread_position_in_grid.x; float v[64];"
        "for (uint k = 0; k < 64; ++k) { v[k] = x[i] + float(k); } y[i] = v[i % 64];"
    )
    # Metal has no recursion, which keeps the compiler from seeing through the calls.
    with emulator.settings(language=False):
        for _ in range(3):
            launch(leaves, mx.ones((32,)))
            assert launch(sets, mx.ones((32,))).tolist() == [1.0 + k for k in range(32)]


class TestWhereItCannotRun:
    def test_it_says_so(self):
        settings = Settings(compiler="g++")
        (left_out,) = emulator.unchecked(settings)
        assert left_out.startswith("variables that are used before they are set: ")
        assert "g++: is no clang" in left_out
        run_module._warn.cache_clear()
        with pytest.warns(UncheckedWarning, match=r"Not checked: variables .*g\+\+: is no clang"):
            launched = self.run(settings)
        assert launched.unchecked == (left_out,)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self.run(Settings(compiler="g++")).unchecked == (left_out,)

    def test_switched_off_it_says_so_too(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            launched = self.run(Settings(compiler="g++", registers=False))
        assert launched.unchecked == ("variables that are used before they are set: switched off",)
        assert emulator.unchecked(Settings(checks="off")) == ("all of them: switched off",)

    def test_complete_checks_leave_nothing_out(self):
        assert self.run(Settings()).unchecked == ()

    @staticmethod
    def run(settings):
        text = PADDED.format(type="float", body=f"v = {id(settings)}.0f;")
        buffers = [Output(shape=(8,), dtype=np.float32)]
        return run_text(
            text, buffers=buffers, grid=(8, 1, 1), threadgroup=(8, 1, 1), settings=settings
        )


LAYOUTS = """
%struct.Inner = type { float, i8 }
%struct.Outer = type <{ half, %struct.Inner, [3 x i8] }>
%"class.metal::vec" = type { %union.anon, [4 x i8] }
%union.anon = type { %struct.anon }
%struct.anon = type { float, float, float }
%"struct.msl_rt::Bookkeeping" = type { i32 }
%struct.Matrix = type { <2 x float>, %"struct.msl_rt::Bookkeeping" }
define void @f() #0 {
entry:
  %v = alloca TYPE, align ALIGNMENT
  ret void
}
attributes #0 = { sanitize_memory }
"""


@pytest.mark.parametrize(
    ("kind", "alignment", "pieces"),
    [
        ("float", 4, [(0, 4)]),
        ("i1", 1, [(0, 1)]),
        ("i128", 16, [(0, 16)]),
        ("[3 x [5 x half]]", 2, [(0, 30)]),
        ("%struct.Inner", 4, [(0, 5)]),
        ("[2 x %struct.Inner]", 4, [(0, 5), (8, 5)]),
        ("%struct.Outer", 1, [(0, 2), (2, 5), (10, 3)]),
        ('%"class.metal::vec"', 16, [(0, 12)]),
        ('[2 x %"class.metal::vec"]', 16, [(0, 12), (16, 12)]),
        ("{ float, [4 x i8] }", 4, [(0, 8)]),
        ("[2 x %struct.Matrix]", 8, [(0, 8), (16, 8)]),
    ],
)
def test_layouts(kind, alignment, pieces):
    text = LAYOUTS.replace("TYPE", kind).replace("ALIGNMENT", str(alignment))
    changed, (variable,) = make_unset(text)
    lengths = [
        line.rsplit("i64 ", 1)[1] for line in changed.split("\n") if "call void @llvm" in line
    ]
    starts = [
        line.rsplit("i64 ", 1)[1] for line in changed.split("\n") if "%msl.unset" in line[:13]
    ]
    found = [0, *map(int, starts)], [int(length.split(",")[0]) for length in lengths]
    assert merged(zip(*found, strict=True)) == merged(pieces)
    assert variable.name == "v"


def merged(pieces):
    """Join what touches."""
    joined = []
    for start, length in pieces:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return joined
