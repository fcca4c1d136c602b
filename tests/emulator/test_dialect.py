"""Constructs that Metal's compiler takes and plain C++ does not, each run or refused by name."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.emulator import Output, run_text
from mlx_tilegemm.errors import KernelCompileError

TEXT = """
#include <metal_stdlib>
using namespace metal;
#define SLOTS 3
typedef float row4 __attribute__((ext_vector_type(4)));
struct Counter {
  Counter() constant = default;
  Counter() thread = default;
  Counter() threadgroup = default;
  int value;
};
template <typename T>
METAL_FUNC ushort width() { return vec_elements<T>::value; }
kernel void mixture(device float* y [[buffer(0)]],
#ifdef WITH_BIAS
                    device const float* bias [[buffer(1)]],
#endif
                    uint i [[thread_position_in_grid]]) {
  float sums[SLOTS] = { [0 ... SLOTS - 1] = -1.5h };
  float grid[2][2] = { [0 ... 1] = 2 };
  threadgroup half tile[8][4] __attribute__((aligned(16)));
  row4 v = row4(1, 2, 3, 4);
  Counter counter;
  counter.value = width<half4>() + width<int>();
  tile[i][0] = half(v.w);
  y[i] = sums[i % SLOTS] + grid[1][i % 2] + float(tile[i][0]) + counter.value;
}
"""


def test_extensions_of_the_compiler():
    out = Output(shape=(8,), dtype=np.float32)
    launched = run_text(TEXT, buffers=[out], grid=(8, 1, 1), threadgroup=(8, 1, 1))
    np.testing.assert_array_equal(launched.outputs[0], np.full(8, -1.5 + 2 + 4 + 5))


def test_conditions_choose_between_kernels():
    text = """
    #include <metal_stdlib>
    #if __METAL_VERSION__ >= 300
    kernel void pick(device int* y [[buffer(0)]]) { y[0] = 3; }
    #else
    kernel void pick(device int* y [[buffer(0)]], uint i [[thread_position_in_grid]]) { y[i] = 2; }
    #endif
    """
    out = Output(shape=(1,), dtype=np.int32)
    launched = run_text(text, buffers=[out], grid=(1, 1, 1), threadgroup=(1, 1, 1))
    assert launched.outputs[0].tolist() == [3]


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.int32])
def test_choices_between_a_value_and_an_integer(dtype):
    relu = tg.emulator.metal_kernel(
        "relu",
        ["x"],
        ["y"],
        """
        uint i = thread_position_in_grid.x;
        T v = x[i];  // >= as one token
        T w = v >= T(0) && v <= T(9) ? 0 : v >= T(-9) ? T(0) : 0;
        const device T* p = i < 2 ? x : 0;
        y[i] = (v > T(0) ? v : 0) + (v < T(-2) ? -1 : v < T(0) ? T(1) : 0) + (p ? T(4) : T(0)) + w;
        """,
    )
    x = mx.array([-3, -1, 0, 2, 5, 6, 7, 8, 9]).astype(dtype)
    (y,) = relu(
        inputs=[x],
        template=[("T", dtype)],
        output_shapes=[x.shape],
        output_dtypes=[dtype],
        grid=(9, 1, 1),
        threadgroup=(9, 1, 1),
    )
    assert y.astype(mx.int32).tolist() == [3, 5, 0, 2, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("typedef half row8 __attribute__((ext_vector_type(8)));", "kernel:2: .* 8 elements"),
        ("constant int a[4] = {[0 ... 1] = 1, [2 ... 3] = 2};", "kernel:2: .* range designator"),
    ],
)
def test_what_is_not_known_is_named(line, message):
    text = f"#include <metal_stdlib>\n{line}\nkernel void k(device int* y) {{ y[0] = 1; }}"
    with pytest.raises(KernelCompileError, match=message):
        run_text(text, buffers=[np.zeros(1, np.int32)], grid=(1, 1, 1), threadgroup=(1, 1, 1))


SWIZZLES = """
#include <metal_stdlib>
using namespace metal;
kernel void swizzles(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  float4 v = float4(1, 2, 3, 4);
  thread float4* p = &v;
  uint3 n = uint3(5, 6, 7);
  y[0] = v.wzyx.x;
  y[1] = v.xyz.zy.y;
  y[2] = p->wz . yx.x;
  y[3] = float4(v.zw, v.rg).bgra.r;
  y[4] = n.zyx.yz.x + n.zz[0];
  y[5] = (v.xy + v.zw).y;
  v.wzyx.xy = float2(8, 9);
  y[6] = v.w + v.z;
}
"""
MEMBERS = """
#include <metal_stdlib>
using namespace metal;
struct Area { float2 xy; float x; };
kernel void members(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  Area area = {float2(1, 2), 3};
  y[0] = area.xy.x;
  y[1] = area.xy.y;
}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [(SWIZZLES, [4, 2, 3, 1, 13, 6, 17]), (MEMBERS, [1, 2])],
    ids=["swizzles", "members"],
)
def test_swizzles_of_swizzles(text, expected):
    out = Output(shape=(len(expected),), dtype=np.float32)
    launched = run_text(text, buffers=[out], grid=(1, 1, 1), threadgroup=(1, 1, 1))
    assert launched.outputs[0].tolist() == expected
