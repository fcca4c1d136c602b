// MSL, Threadgroup and SIMD-Group Synchronization Functions.
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup_barrier(mem_flags::mem_none);
  threadgroup_barrier(mem_flags::mem_device);
  threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  metal::simdgroup_barrier(metal::mem_flags::mem_none);
  out[0] = 1.0f;
}
