kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]], const device bfloat* b [[buffer(2)]]) {
  simdgroup_matrix<half, 8, 8> left;
  simdgroup_matrix<bfloat, 8, 8> other;
  simdgroup_matrix<float, 8, 8> sum(0.0f);
  threadgroup half tile[64];
  tile[0] = a[0];
  simdgroup_load(left, tile, 8);
  simdgroup_load(other, b, 8);
  simdgroup_multiply_accumulate(sum, left, left, sum);
  simdgroup_multiply(sum, left, left);
  simdgroup_store(sum, out, 8);
}
