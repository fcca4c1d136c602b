// expect address-space: reference x names no address space
void increment(float& x) {
  x += 1.0f;
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
