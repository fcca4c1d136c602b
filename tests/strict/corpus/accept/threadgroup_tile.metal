kernel void f(
    device float* out [[buffer(0)]],
    const device float* a [[buffer(1)]],
    uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[128];
  tile[i] = a[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = tile[127 - i];
}
