// The place of a thread in a launch. Included by prelude.h.
#pragma once

#include "executor/runtime.h"
#include "msl/call.h"
#include "msl/dialect.h"

namespace msl_rt {

__forceinline__ constexpr Extent unlinear(uint32_t index, Extent sizes) {
  return {index % sizes.x, index / sizes.x % sizes.y, index / (sizes.x * sizes.y)};
}

__forceinline__ constexpr uint32_t volume(Extent sizes) { return sizes.x * sizes.y * sizes.z; }

__forceinline__ constexpr uint32_t trimmed(uint32_t block, uint32_t grid, uint32_t index) {
  const uint32_t rest = grid - index * block;
  return rest < block ? rest : block;
}

__forceinline__ void set_thread(
    ThreadIds& ids, uint32_t index, Extent group, Extent at, Extent block) {
  ids.position_in_grid = {
      group.x * block.x + at.x, group.y * block.y + at.y, group.z * block.z + at.z};
  ids.position_in_threadgroup = at;
  ids.threadgroup_position = group;
  ids.dispatch_threads_per_threadgroup = block;
  ids.index_in_threadgroup = index;
  ids.index_in_simdgroup = index % 32;
  ids.simdgroup_index = index / 32;
  ids.dispatch_simdgroups_per_threadgroup = (volume(block) + 31) / 32;
  ids.index_in_quadgroup = index % 4;
  ids.quadgroup_index = index / 4;
  ids.dispatch_quadgroups_per_threadgroup = (volume(block) + 3) / 4;
}

// How threadgroups of a grid are numbered: as they are launched, or in one dimension, of which CUDA
// takes more and begins with the first.
enum class Order { launched, counted, x_last };

// Each multiprocessor begins with one of the first threadgroups, and gets one of the next beside it:
// these in the opposite order, so that the longest has the shortest for company.
__forceinline__ uint32_t evened(uint32_t index, uint32_t count) {
  uint32_t processors;
  asm("mov.u32 %0, %%nsmid;" : "=r"(processors));
  const uint32_t end = min(2 * processors, count);
  return index < processors || index >= end ? index : processors + end - 1 - index;
}

template <Order order>
__forceinline__ Extent group_of(Extent groups) {
  if constexpr (order == Order::counted) return unlinear(blockIdx.x, groups);
  if constexpr (order == Order::x_last) {
    const uint32_t index = evened(blockIdx.x, volume(groups));
    const Extent turned = unlinear(index, {groups.y, groups.z, groups.x});
    return {turned.z, turned.x, turned.y};
  }
  return {blockIdx.x, blockIdx.y, blockIdx.z};
}

// False for a thread that Metal would not start, because the grid ends inside of its threadgroup.
template <uint32_t X, uint32_t Y, uint32_t Z, Order order>
__forceinline__ bool find_thread(Extent grid, ThreadIds& ids) {
  constexpr Extent block = {X, Y, Z};
  const Extent groups = {(grid.x + X - 1) / X, (grid.y + Y - 1) / Y, (grid.z + Z - 1) / Z};
  const Extent group = group_of<order>(groups);
  const Extent sizes = {
      trimmed(X, grid.x, group.x), trimmed(Y, grid.y, group.y), trimmed(Z, grid.z, group.z)};
  const uint32_t hardware = threadIdx.x + X * (threadIdx.y + Y * threadIdx.z);
  const uint32_t index = (hardware & ~31u) | metal_lane(hardware & 31u);
  const uint32_t threads = volume(sizes);
  if (index >= threads) return false;
  set_thread(ids, index, group, unlinear(index, sizes), block);
  ids.threads_per_grid = grid;
  ids.threadgroups_per_grid = groups;
  ids.threads_per_threadgroup = sizes;
  ids.simdgroups_per_threadgroup = (threads + 31) / 32;
  ids.quadgroups_per_threadgroup = (threads + 3) / 4;
  return true;
}

// Of a grid of whole threadgroups.
template <uint32_t X, uint32_t Y, uint32_t Z>
__forceinline__ bool find_thread(ThreadIds& ids) {
  constexpr Extent block = {X, Y, Z};
  const uint32_t hardware = threadIdx.x + X * (threadIdx.y + Y * threadIdx.z);
  const uint32_t index = (hardware & ~31u) | metal_lane(hardware & 31u);
  set_thread(ids, index, group_of<Order::launched>({}), unlinear(index, block), block);
  ids.threads_per_grid = {gridDim.x * X, gridDim.y * Y, gridDim.z * Z};
  ids.threadgroups_per_grid = {gridDim.x, gridDim.y, gridDim.z};
  ids.threads_per_threadgroup = block;
  ids.simdgroups_per_threadgroup = (volume(block) + 31) / 32;
  ids.quadgroups_per_threadgroup = (volume(block) + 3) / 4;
  return true;
}

}  // namespace msl_rt
