struct Pair {
  float a;
  float b;
  Pair(float x, float y) thread : a(x), b(y) {}
};
kernel void f(device float* out [[buffer(0)]]) {
  Pair p(1.0f, 2.0f);
  Pair q = Pair(3.0f, 4.0f);
  out[0] = p.a + q.b;
}
