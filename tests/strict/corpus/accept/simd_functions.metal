// MSL, SIMD-Group Functions.
kernel void f(device float* out [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
  float x = out[lane];
  x = simd_sum(x) + simd_max(x) + simd_min(x) + simd_product(x);
  x += simd_shuffle_xor(x, ushort(1)) + simd_shuffle_down(x, 4) + simd_shuffle_up(x, 2);
  x += simd_shuffle(x, ushort(lane ^ 1)) + simd_broadcast(x, 0) + simd_broadcast_first(x);
  x += simd_prefix_inclusive_sum(x) + simd_prefix_exclusive_sum(x);
  int y = simd_and(int(lane)) | simd_or(int(lane));
  if (simd_any(x > 0.0f) && simd_all(y > 0) && simd_is_first()) {
    out[lane] = x + float(y);
  }
}
