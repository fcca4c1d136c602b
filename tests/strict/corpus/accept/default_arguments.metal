METAL_FUNC float scaled(float x, float by = 2.0f) {
  return x * by;
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = scaled(1.0f) + scaled(1.0f, 3.0f);
}
