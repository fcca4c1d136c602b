// expect compile: .*
template <int N>
float sum(const device float* a) {
  float total = 0.0f;
  for (int i = 0; i < N; ++i) {
    total += a[i];
  }
  return total;
}
kernel void f(
    device float* out [[buffer(0)]],
    const device float* a [[buffer(1)]],
    const constant int& n [[buffer(2)]]) {
  out[0] = sum<n>(a);
}
