#include <metal_stdlib>
using namespace metal;

kernel void clip(const device float* x [[buffer(0)]],
                 const device uint* n [[buffer(1)]],
                 device float* y [[buffer(2)]],
                 uint i [[thread_position_in_grid]]) {
  float kept = x[i] > 0.0f ? x[i] : 0;
  y[i] = i < n[0] ? kept : n[1];
}
