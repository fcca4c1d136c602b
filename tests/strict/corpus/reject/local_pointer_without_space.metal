// expect address-space: pointer p names no address space
kernel void f(device float* out [[buffer(0)]]) {
  float x = 1.0f;
  float* p = &x;
  out[0] = *p;
}
