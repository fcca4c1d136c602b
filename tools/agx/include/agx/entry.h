// Places of a thread, for the attributes of a kernel's signature.
#pragma once

typedef uint agx_uint3 __attribute__((ext_vector_type(3)));
extern "C" {
AGX_PURE agx_uint3 nir_load_workgroup_id();
AGX_PURE agx_uint3 nir_load_local_invocation_id();
AGX_PURE uint nir_load_local_invocation_index();
AGX_PURE uint nir_load_subgroup_id();
AGX_PURE uint nir_load_subgroup_invocation();
}

namespace agx {
// One place, taken as as many dimensions as a parameter has.
struct place {
  uint x, y, z;
  METAL_FUNC place(uint x, uint y, uint z) : x(x), y(y), z(z) {}
  METAL_FUNC place(agx_uint3 v) : x(v.x), y(v.y), z(v.z) {}
  METAL_FUNC operator uint() const { return x; }
  METAL_FUNC operator uint2() const { return uint2(x, y); }
  METAL_FUNC operator uint3() const { return uint3(x, y, z); }
};

METAL_FUNC place threadgroup_position() { return place(nir_load_workgroup_id()); }
METAL_FUNC place threadgroups(const __constant uint* grid) {
  return place(grid[0], grid[1], grid[2]);
}
METAL_FUNC place thread_position() { return place(nir_load_local_invocation_id()); }
METAL_FUNC place threads_of_threadgroup() { return place(AGX_THREADS); }
METAL_FUNC place thread_position_in_all() {
  const place group = threadgroup_position(), own = thread_position(), size(AGX_THREADS);
  return place(group.x * size.x + own.x, group.y * size.y + own.y, group.z * size.z + own.z);
}
METAL_FUNC place threads_of_all(const __constant uint* grid) {
  const place groups = threadgroups(grid), size(AGX_THREADS);
  return place(groups.x * size.x, groups.y * size.y, groups.z * size.z);
}
}  // namespace agx
