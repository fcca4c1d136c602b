// expect address-space: pointer p names no address space
float first(device float** p) {
  return p[0][0];
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
