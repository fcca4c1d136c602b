// expect address-space: pointer p names no address space
// MSL, Address Spaces: every pointer names one (a generic space exists from Metal 4.1 on).
float first(float* p) {
  return p[0];
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
