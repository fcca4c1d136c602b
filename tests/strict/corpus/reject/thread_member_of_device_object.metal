// expect compile: .*
struct Pair {
  float a;
  float get() const thread { return a; }
};
kernel void f(device float* out [[buffer(0)]], const device Pair* p [[buffer(1)]]) {
  out[0] = p[0].get();
}
