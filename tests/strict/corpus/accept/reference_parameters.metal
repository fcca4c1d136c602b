METAL_FUNC void increment(thread float& x, const thread float& by) {
  x += by;
}
METAL_FUNC void store(device float& to, float value) {
  to = value;
}
kernel void f(device float* out [[buffer(0)]]) {
  float x = 1.0f;
  float by = 2.0f;
  increment(x, by);
  store(out[0], x);
}
