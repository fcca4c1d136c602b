#if __METAL_VERSION__ >= 400
#error "not the version that is checked"
#endif
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
