// expect space-overload: first differs from an overload in address spaces alone
template <typename T>
T first(const device T* p) {
  return p[0];
}
template <typename T>
T first(const constant T* p) {
  return p[0];
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = first(out);
}
