template <typename T>
METAL_FUNC T guarded(const device T* a, bool valid) {
  return valid ? a[0] : T(0);
}
kernel void f(device bfloat* out [[buffer(0)]], const device bfloat* a [[buffer(1)]]) {
  out[0] = guarded(a, true);
}
