kernel void f(device float* out [[buffer(0)]], const constant float* a [[buffer(1)]]) {
  auto p = a + 2;
  auto q = out;
  q[0] = p[0];
}
