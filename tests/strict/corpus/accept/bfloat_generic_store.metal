// How a template stores any element type.
template <typename T>
METAL_FUNC void store(device T* out, float value) {
  out[0] = T(value);
  out[1] = static_cast<T>(value);
}
kernel void f(device bfloat* a [[buffer(0)]], device half* b [[buffer(1)]], device float* c [[buffer(2)]], device int* d [[buffer(3)]]) {
  store(a, 1.0f);
  store(b, 1.0f);
  store(c, 1.0f);
  store(d, 1.0f);
}
