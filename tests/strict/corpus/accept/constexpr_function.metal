constexpr int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup float tile[ceil_div(100, 8)];
  tile[0] = 1.0f;
  out[0] = tile[0];
}
