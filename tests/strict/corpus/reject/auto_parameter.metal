// expect compile: 'auto' not allowed in function prototype
float twice(auto x) {
  return x + x;
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
