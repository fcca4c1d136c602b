kernel void f(device half* out [[buffer(0)]], const device half* a [[buffer(1)]], uint2 p [[thread_position_in_threadgroup]]) {
  threadgroup half tile[32][33], other[4];
  tile[p.y][p.x] = a[p.y * 32 + p.x];
  other[p.x & 3] = half(0);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[p.y * 32 + p.x] = tile[p.x][p.y] + other[0];
}
