kernel void f(device float4* out [[buffer(0)]], const device float4* a [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float4 tile[32];
  tile[i] = a[i];
  tile[i].x = 1.0f;
  tile[i] += a[0];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = tile[31 - i];
}
