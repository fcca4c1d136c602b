template <typename T>
METAL_FUNC T sum(T a) {
  return a;
}
template <typename T>
METAL_FUNC T pair_sum(T a, T b) {
  return a + b;
}
template <typename T, typename... Rest>
METAL_FUNC int count(T, Rest...) {
  return 1 + int(sizeof...(Rest));
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = sum(1.0f) + pair_sum(2.0f, 3.0f) + float(count(1, 2.0f, 3));
}
