template <typename T, int N>
METAL_FUNC T sum(vec<T, N> v) {
  T total = T(0);
  for (int i = 0; i < N; ++i) {
    total += v[i];
  }
  return total;
}
kernel void f(device float* out [[buffer(0)]], const device float4* a [[buffer(1)]], const device half2* b [[buffer(2)]]) {
  out[0] = sum(a[0]) + float(sum(b[0]));
}
