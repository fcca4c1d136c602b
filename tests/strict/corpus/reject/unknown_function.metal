// expect compile: use of undeclared identifier 'simd_total'
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = simd_total(out[1]);
}
