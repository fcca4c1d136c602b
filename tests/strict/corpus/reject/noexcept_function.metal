// expect noexcept: Metal has no noexcept
// expect word: Metal has no noexcept
float twice(float x) noexcept {
  return x + x;
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = twice(1.0f);
}
