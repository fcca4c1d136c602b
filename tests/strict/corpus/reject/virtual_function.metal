// expect compile: virtual functions are not supported
// expect word: Metal has no virtual
struct Shape {
  virtual float area() thread;
};
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
