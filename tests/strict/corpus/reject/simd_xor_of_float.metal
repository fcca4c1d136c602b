// expect compile: .*
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = simd_and(out[1]);
}
