"""`run_text`: any Metal text runs, whatever it is made of."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from cxx import builds, settings_of

from mlx_tilegemm import emulator
from mlx_tilegemm.emulator import (
    EmulatorError,
    KernelCheckError,
    KernelCompileError,
    Output,
    Settings,
    run_text,
)

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
X = np.arange(64, dtype=np.float32)
FLOATS = Output(shape=(64,), dtype=np.float32)


def run(text, buffers, *, threads=64, group=32, **options):
    return run_text(
        HEAD + text, buffers=buffers, grid=(threads, 1, 1), threadgroup=(group, 1, 1), **options
    ).outputs


FUNCTION_CONSTANTS = """
constant bool doubled [[function_constant(0)]];
constant int shift [[function_constant(7)]];
constant bool has_shift = is_function_constant_defined(shift);
kernel void f(device const float* x [[buffer(0)]],
              device const float* extra [[buffer(1), function_constant(doubled)]],
              device float* y [[buffer(2)]],
              uint i [[thread_position_in_grid]]) {
  float v = x[i];
  if (doubled) { v += extra[i]; }
  if (has_shift) { v += float(shift); }
  y[i] = v;
}
"""


@pytest.mark.parametrize("build", builds())
def test_function_constants(build):
    settings = settings_of(build)
    plain = run(
        FUNCTION_CONSTANTS, {0: X, 2: FLOATS}, function_constants={0: False}, settings=settings
    )
    np.testing.assert_array_equal(plain[2], X)
    full = run(
        FUNCTION_CONSTANTS,
        {0: X, 1: X, 2: FLOATS},
        function_constants={"doubled": True, 7: -3},
        settings=settings,
    )
    np.testing.assert_array_equal(full[2], 2 * X - 3)


DYNAMIC = """
kernel void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
              threadgroup float* tile [[threadgroup(0)]],
              uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  tile[t] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = tile[31 - t];
}
"""


def test_threadgroup_arguments():
    out = run(DYNAMIC, [X, FLOATS], dynamic_threadgroup={0: 32 * 4})[1]
    np.testing.assert_array_equal(out, X.reshape(2, 32)[:, ::-1].ravel())
    with pytest.raises(KernelCheckError, match=r"out-of-bounds.*'tile'"):
        run(DYNAMIC, [X, FLOATS], dynamic_threadgroup={0: 31 * 4})
    with pytest.raises(EmulatorError, match="Expected a size"):
        run(DYNAMIC, [X, FLOATS])


SEVERAL = """
namespace tools {
namespace inner {
template <typename T, int N>
[[kernel]] void add(device const T* x, device T* y, uint i [[thread_position_in_grid]]) {
  y[i] = x[i] + T(N);
}
}
template [[host_name("add_half")]] [[kernel]] void inner::add<half, 2>(
    device const half*, device half*, uint);
}
template [[host_name("add_" "float")]] [[kernel]]
decltype(tools::inner::add<float, 3>) tools::inner::add<float, 3>;
kernel [[host_name("renamed")]] void plain(
    device const float* x [[buffer(3)]], device float* y [[buffer(5)]],
    const constant int2& shift [[buffer(4)]], ushort3 at [[thread_position_in_grid]]) {
  y[at.x] = x[at.x] * float(shift.x) + float(shift.y);
}
"""


def test_several_kernels():
    out = run(SEVERAL, [X, FLOATS], kernel="add_float")[1]
    np.testing.assert_array_equal(out, X + 3)
    halves = [X.astype(np.float16), Output(shape=(64,), dtype=np.float16)]
    np.testing.assert_array_equal(run(SEVERAL, halves, kernel="add_half")[1], X + 2)
    named = {"x": X, "y": FLOATS, "shift": struct.pack("2i", 4, 5)}
    np.testing.assert_array_equal(run(SEVERAL, named, kernel="renamed")[5], 4 * X + 5)
    with pytest.raises(KernelCompileError, match="add_half"):
        run(SEVERAL, [X, FLOATS])
    with pytest.raises(EmulatorError, match="Expected a buffer of"):
        run(SEVERAL, {"z": X}, kernel="renamed")
    with pytest.raises(EmulatorError, match="argument for buffer 5"):
        run(SEVERAL, {"x": X, "shift": bytes(8)}, kernel="renamed")


STORAGE = """
struct Pair { float a; half b; };
template <typename T, int N>
struct Tile { static constant constexpr const int size = N; T at[N]; };
kernel void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
              uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float rows[4][8], single;
  alignas(16) threadgroup half halves[Tile<float, 40>::size > 32 ? 32 : 1];
  threadgroup Tile<float, 32> tile;
  threadgroup Pair pairs[32];
  threadgroup float4 vectors[8];
  threadgroup array<int, 32> numbers;
  threadgroup unsigned int words[32];
  threadgroup float* pointer = &rows[0][0];
  pointer[t] = x[i];
  if (t == 0) { single = 1.0h; }
  halves[t] = 0.5h;
  tile.at[t] = 2.0f;
  pairs[t].a = 1.0f;
  pairs[t].b = 1.5H;
  threadgroup float* scalars = reinterpret_cast<threadgroup float*>(vectors);
  scalars[t] = 0.25f;
  numbers[t] = int(t);
  words[t] = t;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint o = 31 - t;
  y[i] = rows[o / 8][o % 8] + single + float(halves[o]) + tile.at[o] + pairs[o].a
      + float(pairs[o].b) + vectors[o / 4].x + float(numbers[o] - int(words[o]));
}
"""


@pytest.mark.parametrize("build", builds())
def test_threadgroup_declarations(build):
    out = run(STORAGE, [X, FLOATS], settings=settings_of(build))[1]
    expected = X.reshape(2, 32)[:, ::-1].ravel() + 1 + 0.5 + 2 + 1 + 1.5 + 0.25
    np.testing.assert_array_equal(out, expected)


OVERLOADS = """
template <typename P> struct element {};
template <typename T> struct element<device T*> { using type = T; };
template <typename T> struct element<const device T*> { using type = T; };
template <typename T> struct element<threadgroup T*> { using type = T; };
METAL_FUNC float first(device const float* p) { return p[0]; }
METAL_FUNC float first(threadgroup const float* p) {
  return p[0];
}
struct Reader {
  float factor, shift;
  Reader() thread : factor(1.0f), shift{0.0f} {}
  template <typename T> float read(const device T* p) thread { return float(p[1]); }
  template <typename T> float read(const threadgroup T* p) thread { return float(p[1]); }
};
kernel void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
              uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup element<device float*>::type tile[32];
  tile[t] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  Reader reader;
  y[i] = first(x) + first(tile) + reader.read(x) + reader.read(tile);
}
"""


@pytest.mark.parametrize("build", builds())
def test_overloads_that_differ_in_address_spaces(build):
    out = run(OVERLOADS, [X, FLOATS], settings=settings_of(build))[1]
    np.testing.assert_array_equal(out, np.repeat([0.0 + 0 + 1 + 1, 0.0 + 32 + 1 + 33], 32))


def test_includes(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "twice.h").write_text(
        "#pragma once\n#define KERNEL [[kernel]] void\n"
        "METAL_FUNC float twice(float v) {\n  return v + v; }\n"
    )
    text = """#include "lib/twice.h"
    #define TILE(n) threadgroup float tile[n]
    KERNEL f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
             uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
      TILE(32);
      tile[t] = twice(x[i]);
      y[i] = tile[t];
    }
    """
    out = run(text, [X, FLOATS], include_dirs=[tmp_path])[1]
    np.testing.assert_array_equal(out, 2 * X)
    with pytest.raises(KernelCompileError, match=r"lib/twice\.h"):
        run(text.replace("TILE(32)", "TILE(33)"), [X, FLOATS])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("void f() {}", "found none"),
        ("kernel void f(texture2d<float> t [[texture(0)]]) {}", r"kernel:3: .*\[\[texture\]\]"),
        ("kernel void f(uint i) {}", "without attribute"),
        ("kernel float f() { return 0; }", "returning void"),
        (
            "kernel void f(device float* y [[buffer(0)]]) { threadgroup float a[2] = {1, 2}; }",
            "declaration of the threadgroup variable 'a'",
        ),
        (
            "kernel void f(device float* y [[buffer(0)]]) { float threadgroup a[2]; y[0] = a[0]; }",
            "behind the type",
        ),
        ("void g() { threadgroup float a[2]; }\nkernel void f() {}", "outside a kernel"),
    ],
)
def test_unknown_constructs_are_named(text, message):
    with pytest.raises(KernelCompileError, match=message):
        run(text, [FLOATS])


def test_constants_may_only_be_read():
    text = """
    kernel void f(constant float* x [[buffer(0)]], device float* y [[buffer(1)]],
                  constant int& shift [[buffer(2)]], uint i [[thread_position_in_grid]]) {
      y[i] = x[i] + float(shift);
    }
    """
    np.testing.assert_array_equal(run(text, [X, FLOATS, np.int32(1)])[1], X + 1)
    with pytest.raises(KernelCompileError, match=r"read-only|const"):
        run(text.replace("y[i] =", "x[i] ="), [X, FLOATS, np.int32(1)])


def test_sizes_of_launches():
    text = "kernel void f(device float* y [[buffer(0)]]) { y[0] = 1.0f; }"
    with pytest.raises(ValueError, match=r"Thread group size \(2048\)"):
        run(text, [FLOATS], group=2048)
    with pytest.raises(ValueError, match="Expected three sizes"):
        run_text(HEAD + text, buffers=[FLOATS], grid=(1, 1), threadgroup=(1, 1, 1))


ATOMICS = """
kernel void f(device const float* x [[buffer(0)]], device atomic_uint* bins [[buffer(1)]],
              device float* y [[buffer(2)]], device atomic_int* most [[buffer(3)]],
              device atomic_float* sum [[buffer(4)]],
              uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup atomic_uint local;
  if (t == 0) { atomic_store_explicit(&local, 0, memory_order_relaxed); }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&local, 2u, memory_order_relaxed);
  atomic_fetch_add_explicit(&bins[i % 4], 1u, memory_order_relaxed);
  atomic_fetch_max_explicit(most, int(x[i]), memory_order_relaxed);
  atomic_fetch_add_explicit(sum, x[i], memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = float(atomic_load_explicit(&local, memory_order_relaxed));
}
"""


@pytest.mark.parametrize("build", builds())
def test_atomics(build):
    buffers = [
        X,
        np.zeros(4, np.uint32),
        FLOATS,
        np.zeros(1, np.int32),
        np.zeros(1, np.float32),
    ]
    out = run(ATOMICS, buffers, settings=settings_of(build))
    assert out[1].tolist() == [16] * 4
    assert out[2].tolist() == [64.0] * 64
    assert out[3].tolist() == [63]
    assert out[4].tolist() == [X.sum()]


def test_plain_access_to_an_atomic_races():
    text = """
    kernel void f(device const float* x [[buffer(0)]], device atomic_uint* bins [[buffer(1)]],
                  device float* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
      atomic_fetch_add_explicit(&bins[0], 1u, memory_order_relaxed);
      y[i] = float(reinterpret_cast<device uint*>(bins)[0]);
    }
    """
    with pytest.raises(KernelCheckError) as caught:
        run(text, [X, np.zeros(4, np.uint32), FLOATS])
    assert {(str(f.kind), f.buffer) for f in caught.value.findings} == {("race", "bins")}


def test_results_do_not_depend_on_the_schedule():
    results = [
        run(
            DYNAMIC,
            [X, FLOATS],
            dynamic_threadgroup={0: 128},
            settings=Settings(order=order, seed=seed, workers=workers),
        )[1].tobytes()
        for order, seed, workers in [
            ("forward", 0, 1),
            ("reverse", 0, 2),
            ("random", 1, 2),
            ("random", 2, 1),
        ]
    ]
    assert len(set(results)) == 1


def test_counters():
    text = """
    kernel void f(device const half* x [[buffer(0)]], device float* y [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
      threadgroup half tile[64];
      tile[i] = x[i];
      tile[i + 32] = x[i + 32];
      threadgroup_barrier(mem_flags::mem_threadgroup);
      simdgroup_half8x8 a;
      simdgroup_load(a, tile, 8);
      simdgroup_float8x8 sum(0.0f);
      for (int k = 0; k < 40; ++k) { simdgroup_multiply_accumulate(sum, a, a, sum); }
      simdgroup_store(sum, y, 8);
    }
    """
    x = np.ones(64, np.float16)
    launched = run_text(HEAD + text, buffers=[x, FLOATS], grid=(32, 1, 1), threadgroup=(32, 1, 1))
    np.testing.assert_array_equal(launched.outputs[1], np.full(64, 320, np.float32))
    counters = launched.counters
    assert counters.multiply_accumulates == 40
    assert counters.threadgroup_barriers == 1
    assert (counters.device_loaded, counters.device_stored) == (128, 256)
    assert (counters.threadgroup_loaded, counters.threadgroup_stored) == (128, 128)
    assert counters.threadgroup_bytes == 128


def test_matrix_products_of_every_type():
    text = """
    template <typename A, typename B, typename C>
    METAL_FUNC void multiply(device const float* x, device float* y) {
      simdgroup_matrix<A, 8, 8> a;
      simdgroup_matrix<B, 8, 8> b;
      simdgroup_matrix<C, 8, 8> c(C(1)), d;
      simdgroup_load(a, x, 8);
      simdgroup_load(b, x, 8, ulong2(0, 0), true);
      simdgroup_multiply_accumulate(d, a, b, c);
      simdgroup_multiply_accumulate(c, a, b, d);
      simdgroup_store(c, y, 8);
    }
    kernel void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]]) {
      multiply<half, float, float>(x, y);
      multiply<bfloat, half, half>(x, y + 64);
      multiply<float, float, bfloat>(x, y + 128);
    }
    """
    x = (np.arange(64) % 5).astype(np.float32)
    out = run(text, [x, Output(shape=(3, 8, 8), dtype=np.float32)], threads=32)[1]
    square = x.reshape(8, 8)
    exact = 2 * square @ square.T + np.eye(8)
    np.testing.assert_array_equal(out[0], exact)
    np.testing.assert_array_equal(out[1], exact)
    np.testing.assert_allclose(out[2], exact, rtol=2**-7)


def test_simd_functions_in_a_branch_serve_the_lanes_in_it():
    text = """
    kernel void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                  uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
      float sum = 0.0f;
      if (lane < 5) {
        sum = simd_sum(x[i]);
      } else if (lane > 20) {
        sum = simd_broadcast_first(x[i]);
      }
      y[i] = sum + simd_max(x[i]);
    }
    """
    rows = X.reshape(2, 32)
    exact = np.repeat(rows.max(axis=1)[:, None], 32, axis=1)
    exact[:, :5] += rows[:, :5].sum(axis=1)[:, None]
    exact[:, 21:] += rows[:, 21][:, None]
    for order in ("forward", "reverse", "random"):
        out = run(text, [X, FLOATS], settings=Settings(order=order))[1]
        np.testing.assert_array_equal(out.reshape(2, 32), exact)


def test_module_says_what_it_exports():
    for name in emulator.__all__:
        assert hasattr(emulator, name)
