// expect compile: no member named 'mem_all'
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup_barrier(mem_flags::mem_all);
}
