// expect compile: .*
kernel void f(device half* out [[buffer(0)]]) {
  simdgroup_half8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_store(m, out, 8);
}
