#include <metal_stdlib>
#include <metal_math>
#include <metal_simdgroup_matrix>
using namespace metal;
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = metal::exp(out[1]);
}
