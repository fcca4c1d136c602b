struct alignas(8) Pair {
  float a;
  float b;
};
kernel void f(device Pair* out [[buffer(0)]], const device Pair* p [[buffer(1)]]) {
  Pair pair = p[0];
  pair.a = pair.b;
  out[0] = pair;
}
