METAL_FUNC float widen(float x) {
  return x;
}
METAL_FUNC float widen(half x) {
  return float(x);
}
METAL_FUNC float widen(int x) {
  return float(x);
}
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  out[0] = widen(a[0]) + widen(1) + widen(1.0f);
}
