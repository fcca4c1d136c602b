// Taken below Metal 4 as well; MLX's own kernels use it.
template <bool ALIGNED>
METAL_FUNC float load(const device float* a, int i, int n) {
  if constexpr (ALIGNED) {
    return a[i];
  } else {
    return i < n ? a[i] : 0.0f;
  }
}
kernel void f(device float* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  out[0] = load<true>(a, 0, 4) + load<false>(a, 1, 4);
}
