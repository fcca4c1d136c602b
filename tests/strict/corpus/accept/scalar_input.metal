// What MLX makes of an input without axes.
kernel void f(
    device float* out [[buffer(0)]],
    const constant float& a [[buffer(1)]],
    const constant bfloat16_t& b [[buffer(2)]],
    const constant int32_t& n [[buffer(3)]]) {
  for (int i = 0; i < n; ++i) {
    out[i] = a + float(b);
  }
}
