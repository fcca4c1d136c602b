template <typename T, typename = enable_if_t<is_floating_point_v<T>>>
METAL_FUNC T twice(T x) {
  return x + x;
}
template <typename T, enable_if_t<is_integral_v<T>, bool> = true>
METAL_FUNC T twice_whole(T x) {
  return x << 1;
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = twice(1.0f) + float(twice_whole(3));
  out[1] = is_same_v<half, float16_t> ? 1.0f : 0.0f;
}
