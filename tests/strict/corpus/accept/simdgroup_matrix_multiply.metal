// MSL, SIMD-Group Matrix Functions.
kernel void f(device float* out [[buffer(0)]], const device float* a [[buffer(1)]], const device float* b [[buffer(2)]]) {
  simdgroup_float8x8 left;
  simdgroup_float8x8 right;
  simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_load(left, a, 8);
  simdgroup_load(right, b, 16, ulong2(8, 0), true);
  simdgroup_multiply_accumulate(sum, left, right, sum);
  simdgroup_store(sum, out, 8);
}
