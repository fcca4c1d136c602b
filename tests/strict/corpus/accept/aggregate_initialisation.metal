struct Pair {
  float a;
  int b;
};
kernel void f(device float* out [[buffer(0)]]) {
  Pair p = {1.0f, 2};
  Pair q{3.0f, 4};
  float own[3] = {};
  out[0] = p.a + float(q.b) + own[2];
}
