kernel void f(device float* out [[buffer(0)]]) {
  float max = 1.0f;
  float min = metal::min(max, 2.0f);
  for (int i = 0; i < 2; ++i) {
    float max = 2.0f;
    out[i] = max + min;
  }
}
