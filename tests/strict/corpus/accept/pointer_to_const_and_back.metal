kernel void f(device float* out [[buffer(0)]]) {
  const device float* p = out;
  device float* const q = out;
  q[0] = p[1];
}
