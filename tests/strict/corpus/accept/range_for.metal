kernel void f(device float* out [[buffer(0)]]) {
  float own[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  float total = 0.0f;
  for (float x : own) {
    total += x;
  }
  out[0] = total;
}
