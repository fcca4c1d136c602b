kernel void f(device float* out [[buffer(0)]], device half* h [[buffer(1)]]) {
  out[0] = numeric_limits<float>::infinity();
  out[1] = metal::numeric_limits<float>::lowest();
  out[2] = Limits<float>::finite_min;
  h[0] = Limits<half>::max;
  out[3] = float(Limits<bfloat16_t>::min);
  constexpr int top = numeric_limits<int>::max();
  out[4] = float(top);
  static_assert(numeric_limits<uchar>::max() == 255 && numeric_limits<short>::min() == -32768, "");
  static_assert(numeric_limits<ulong>::max() == 0xfffffffffffffffful, "");
}
