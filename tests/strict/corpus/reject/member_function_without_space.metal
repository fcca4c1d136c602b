// expect member-function: get names no address space for its object
struct Pair {
  float a;
  float get() const { return a; }
};
kernel void f(device float* out [[buffer(0)]]) {
  Pair p;
  p.a = 1.0f;
  out[0] = p.get();
}
