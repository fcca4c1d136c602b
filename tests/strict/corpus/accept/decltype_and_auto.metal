kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  auto x = a[0] * 2.0f;
  decltype(x) y = x;
  auto i = 3;
  out[i] = y;
}
