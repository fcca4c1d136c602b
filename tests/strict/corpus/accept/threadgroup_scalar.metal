kernel void f(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float total;
  if (i == 0) {
    total = 1.0f;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = total;
}
