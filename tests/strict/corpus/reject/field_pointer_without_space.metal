// expect address-space: pointer p names no address space
struct View {
  const float* p;
};
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
