// expect compile: no matching function for call to 'simd_shuffle'
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = simd_shuffle(out[1]);
}
