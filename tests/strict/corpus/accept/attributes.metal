// MSL, Attributes for Kernel Function Inputs.
kernel void f(
    device uint* out [[buffer(0)]],
    uint lane [[thread_index_in_simdgroup]],
    uint group [[simdgroup_index_in_threadgroup]],
    uint index [[thread_index_in_threadgroup]],
    uint3 block [[threadgroup_position_in_grid]],
    uint3 place [[thread_position_in_threadgroup]],
    uint3 blocks [[threadgroups_per_grid]],
    uint width [[threads_per_simdgroup]]) {
  out[index] = lane + group + block.x + place.y + blocks.z + width;
}
