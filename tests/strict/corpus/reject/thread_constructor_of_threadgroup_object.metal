// expect threadgroup-object: Pair has a constructor
struct Pair {
  float a;
  Pair() thread : a(0.0f) {}
};
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup Pair p;
  out[0] = p.a;
}
