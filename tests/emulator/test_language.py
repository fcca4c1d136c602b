"""Metal that C++ reads otherwise or not at all, and that the emulator therefore has to rewrite."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_tilegemm.emulator import KernelCheckError, KernelCompileError, Output, run_text
from mlx_tilegemm.emulator.rewrite import rewrite

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"


def launch(text, buffers, threads=4, **options):
    return run_text(
        HEAD + text, buffers=buffers, grid=(threads, 1, 1), threadgroup=(threads, 1, 1), **options
    ).outputs


def filled(size, dtype=np.float32):
    return Output(shape=(size,), dtype=dtype)


def cpp(text):
    return rewrite(text, {}).text


LITERALS = """
#define TENTH 0.1
template <typename T> struct Bytes { static constant constexpr int value = sizeof(T); };
kernel void literals(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  half h = 2.0h;
  auto product = h * 1.5;
  y[0] = Bytes<decltype(product)>::value;
  y[1] = sqrt(i + 0x1.8p1) + .5 + 1. + 1e-3;
  y[2] = Bytes<decltype(TENTH)>::value;
  y[3] = TENTH * 3 == 0.1f * 3;
}
"""


def test_floating_literals_are_float():
    y = launch(LITERALS, [filled(4)], threads=1)[0]
    assert y.tolist() == [4, np.float32(np.sqrt(np.float32(3)) + np.float32(1.501)), 4, 1]


@pytest.mark.parametrize(
    ("metal", "expected"),
    [
        ("1.0", "1.0f"),
        ("1.", "1.f"),
        (".5", ".5f"),
        ("1e-3", "1e-3f"),
        ("1E5", "1E5f"),
        ("0x1p-3", "0x1p-3f"),
        ("0x1e3", "0x1e3"),
        ("1'000.5", "1'000.5f"),
        ("2.0f", "2.0f"),
        ("7", "7"),
        ("7u", "7u"),
        ("1.0h", "half(1.0f)"),
        ("1.5e2bf", "bfloat(1.5e2f)"),
        ("0x1p-3h", "half(0x1p-3f)"),
    ],
)
def test_suffixes(metal, expected):
    assert f"x = {expected};" in cpp(f"int x = {metal};")
    assert cpp(f"#define X {metal}\n").startswith(f"#define X {expected}\n")
    text = f'#define level_1 "{metal}" // {metal}\n'
    assert cpp(text).startswith(text)


PASTED = """
#define FLOAT(digits) digits##f
kernel void pasted(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  y[i] = FLOAT(1.5);
}
"""


def test_literals_that_macros_make():
    assert launch(PASTED, [filled(4)])[0].tolist() == [1.5] * 4


DEPENDENT = """
template <typename T> struct Tile { typedef T acc_type; static constant constexpr int size = 4; };
template <typename K>
[[kernel]] void swap(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  threadgroup typename K::acc_type cells[K::size];
  cells[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = cells[3 - i];
}
template [[host_name("swap")]] [[kernel]] decltype(swap<Tile<float>>) swap<Tile<float>>;
"""


def test_dependent_types_of_threadgroup_memory():
    assert launch(DEPENDENT, [filled(4)])[0].tolist() == [3, 2, 1, 0]


UNNUMBERED = """
constant constexpr int N = 2;
kernel void unnumbered(device const float* x, constant const int64_t strides[N],
                       constant float (&row)[2], constant int& shift, device float* y,
                       uint i [[thread_position_in_grid]]) {
  y[i] = x[i / 2 * strides[0] + i % 2 * strides[1]] * row[i % 2] + shift;
}
"""


def test_buffers_without_attribute_are_numbered_in_order():
    x = np.arange(4, dtype=np.float32)
    row = np.array([1, 10], np.float32)
    strides = np.array([1, 2], np.int64)
    buffers = {"x": x, "strides": strides, "row": row, "shift": np.int32(5), "y": filled(4)}
    y = launch(UNNUMBERED, buffers)[4]
    assert y.tolist() == [5, 25, 6, 35]
    assert launch(UNNUMBERED, list(buffers.values()))[4].tolist() == y.tolist()


MIXED = """
kernel void mixed(device float* y [[buffer(1)]], device const float* a, device const float* b,
                  uint i [[thread_position_in_grid]]) { y[i] = a[i] - b[i]; }
"""


def test_numbers_that_are_taken_are_left_out():
    a, b = np.full(4, 5, np.float32), np.full(4, 3, np.float32)
    assert launch(MIXED, {0: a, 1: filled(4), 2: b})[1].tolist() == [2] * 4


HIDDEN_CONSTANTS = """
#define MTL_BOOL(name, number) \\
  static constant constexpr const bool name [[function_constant(number)]];
MTL_BOOL(negate, 0)
constant int plain [[function_constant(1)]];
static constant bool twice [[function_constant(2)]];
kernel void constants(device int* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  y[i] = (negate ? -1 : 1) * (twice ? 2 : 1) * int(i) + plain;
}
"""


def test_function_constants_behind_macros():
    values = {0: True, "plain": 7, 2: True}
    y = launch(HIDDEN_CONSTANTS, [filled(4, np.int32)], function_constants=values)[0]
    assert y.tolist() == [7, 5, 3, 1]


STORE = """
struct Params {{ int n; float4 v; }};
constant float table[2] = {{1, 2}};
kernel void store(constant Params& p [[buffer(0)]], constant float* x [[buffer(1)]],
                  device float* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {{
  y[i] = x[i] + p.n + table[0];
  {statement};
}}
"""


@pytest.mark.parametrize("statement", ["p.n = 3", "p.v.x = 1", "x[i] = 2", "table[0]++"])
def test_stores_through_constant_are_refused(statement):
    buffers = [bytes(32), np.zeros(4, np.float32), filled(4)]
    with pytest.raises(KernelCompileError, match=r"read-only|const"):
        launch(STORE.format(statement=statement), buffers)


@pytest.mark.parametrize(
    ("metal", "expected"),
    [
        ("constant int& x", "const int& x"),
        ("const constant int& x", "const int& x"),
        ("constant const int& x", "const int& x"),
        ("int const constant* x", "int const * x"),
        ("device int* constant* x", "device int* const* x"),
        ("constant vec<const int, 2>& x", "const vec<const int, 2>& x"),
        ("vec<const int, 2> constant& x", "vec<const int, 2> const& x"),
        ("constant int* const x", "const int* const x"),
        ("static constant constexpr const int x", "static constexpr const int x"),
    ],
)
def test_constant_is_const(metal, expected):
    got = cpp(f"void f({metal});").split(";")[0]
    assert " ".join(got.split()).replace("( ", "(") == f"void f({expected})"


@pytest.mark.parametrize(
    ("metal", "checked"),
    [
        ("y[i] = 1;", ["y"]),
        ("return y[i];", ["y"]),
        ("return &y[4];", []),
        ("x = n & y[i];", ["y"]),
        ("x = n * y[i] + 2 * y[1];", ["y", "y"]),
        ("n * y[i];", ["y"]),
        ("if (n < 2) y[i] = n > y[2];", ["y", "y"]),
        ("if (n < y[1] && i > y[2]) (*p)[i] = 1;", ["y", "y", "(*p)"]),
        ("else y[1] = (float)y[2] + float4{1, y[3]}.x;", ["y", "y", "y"]),
        ("y[n] [i] += s.at[i];", ["msl_rt_element(y,n)", "y", "s.at"]),
        ("f(n, y[i], n * y[2], (thread int*)y[3]);", ["y", "y", "y"]),
        ("x = n, y[i] = 2;", ["y"]),
        ("x = n >> y[i];", ["y"]),
        ("x = (n ? y : z)[i];", ["(n?y:z)"]),
        ("case 1: y[i] = f(n)[i];", ["y"]),
        ("[[fallthrough]]; y[0] = 1;", ["y"]),
        ("float y[3], z[2];", []),
        ("float y = z[1], x[2] = {y, z[0]};", ["z", "z"]),
        ("for (int n = 0, y[2] = {}; n < y[0]; ++n) {}", ["y"]),
        ("vec<float, 2> y[2]; metal::vec<T, (N > 2)> z[3];", []),
        ("device float* y[2]; const device half *a, *y[2];", []),
        ("float *y[2]; T* y[3]; vec<T, 2>* y[2];", []),
        ("thread float (&y)[2] = *z; thread T (*p)[2];", []),
        ("decltype(z) y[2]; alignas(16) float y[4];", []),
        ("struct { float at[2]; } s[2], y[2];", []),
        ("typedef float tile[4]; int x = sizeof(tile[2]);", []),
        ("using tile = T[4]; A<T[4]> a; x = sizeof(y[2]);", []),
        ("auto z = [y](int i) { return y[i]; };", ["y"]),
        ("T operator[](int i) const;", []),
    ],
)
def test_subscripts_of_expressions_are_checked(metal, checked):
    head = "template <typename T> void f(thread float (&y)[2], thread T* z, thread T& s, int n)"
    body = cpp(f"{head} {{ {metal} }}").partition("{")[2]
    spaceless = "".join(body.split())
    assert spaceless.count("msl_rt_element(") == len(checked)
    assert all(f"msl_rt_element({one}," in spaceless for one in checked)


IN_A_MACRO = """
#define LAST_OF(pairs, n) pairs[n]
float read(thread float2& value) { return value.y; }
kernel void in_a_macro(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  float2 pairs[2] = {float2(1.0f), float2(i)};
  y[i] = read(LAST_OF(pairs, i));
}
"""


def test_subscripts_in_macros_are_checked():
    assert launch(IN_A_MACRO, [filled(2)], threads=2)[0].tolist() == [1, 1]
    with pytest.raises(KernelCheckError) as error:
        launch(IN_A_MACRO, [filled(3)], threads=3)
    (found,) = error.value.findings
    assert (str(found.kind), found.line) == ("out-of-bounds", 8)


OVERLOADS = """
struct Flag {
  int v;
  Flag(int x) thread : v(x) {}
  Flag(int y) threadgroup : v(y) {}
  operator bool() const thread { return v; }
  operator bool() const threadgroup { return v; }
  operator bool() const device { return v; }
  int get(device const int* p) const { return p[0] + v; }
  int get(threadgroup const int* q) const { return q[0] + v; }
};
inline int first(device const int* p) { return p[0]; }
inline int first(constant int* p) { return p[0]; }
template <typename T> T last(const device T* p, int n) { return p[n - 1]; }
template <typename T> T last(const threadgroup T* p, int n) { return p[n - 1]; }
kernel void overloads(device const int* x [[buffer(0)]], constant int* c [[buffer(1)]],
                      device int* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  threadgroup int t[4];
  t[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  Flag flag(i);
  y[i] = (flag ? 100 : 0) + flag.get(t) + flag.get(x) + first(x) + first(c) + last(t, 4);
}
"""


def test_overloads_that_differ_in_address_spaces_alone():
    x, c = np.arange(4, dtype=np.int32), np.array([50], np.int32)
    y = launch(OVERLOADS, [x, c, filled(4, np.int32)])[2]
    assert y.tolist() == [53, 155, 157, 159]


def test_overloads_that_differ_in_types_stay():
    text = "int f(device half* x) { return 1; }\nint f(threadgroup float* y) { return 2; }\n"
    assert "return 1" in cpp(text)
    assert "return 2" in cpp(text)


SPECIALIZED = """
struct Sum {
  template <typename T> T operator()(T a, T b) { return a + b; }
  template <> bool operator()(bool a, bool b) { return a || b; }
};
template <> struct metal::is_integral<Sum> : metal::true_type {};
kernel void specialized(device int* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  y[i] = Sum()(int(i), 3) + 10 * Sum()(true, i > 9) + 100 * is_integral<Sum>::value;
}
"""


def test_specializations_inside_classes():
    y = launch(SPECIALIZED, [filled(4, np.int32)])[0]
    assert y.tolist() == [113, 114, 115, 116]


PRAGMAS = """
#define N 4
kernel void pragmas(device int* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  int sum = 0;
#pragma unroll(N)
  for (int k = 0; k < N; ++k) sum += k;
#pragma clang loop unroll_count(N)
  for (int k = 0; k < N; ++k) sum += k;
#pragma unroll
  for (int k = 0; k < N; ++k) sum += k;
  y[i] = sum;
}
"""


def test_loop_pragmas():
    assert launch(PRAGMAS, [filled(4, np.int32)])[0].tolist() == [18] * 4
    assert "#pragma" not in cpp("#pragma unroll(N)\n#pragma clang loop unroll_count(N)\n")
    assert "#pragma clang loop unroll(full)" in cpp("#pragma clang loop unroll(full)\n")
