// expect space-overload: first differs from an overload in address spaces alone
// Legal Metal, which a build for a CPU or CUDA cannot tell apart.
float first(const device float* p) {
  return p[0];
}
float first(const threadgroup float* p) {
  return p[0];
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = first(out);
}
