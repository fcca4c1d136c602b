// expect bfloat: long becomes bfloat without a cast
// MSL, SIMD-Group Functions: values of up to 32 bits.
kernel void f(device long* out [[buffer(0)]]) {
  out[0] = metal::simd_sum(out[1]);
}
