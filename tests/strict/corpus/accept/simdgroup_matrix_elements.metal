// Undocumented, and what MLX's own kernels do.
kernel void f(device float* out [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_matrix<float, 8, 8> m = make_filled_simdgroup_matrix<float, 8>(1.0f);
  reinterpret_cast<thread float2&>(m.thread_elements()) = float2(1.0f, 2.0f);
  float2 own = reinterpret_cast<thread float2&>(m.thread_elements());
  m.thread_elements()[0] = own.y;
  out[lane] = m.thread_elements()[1];
}
