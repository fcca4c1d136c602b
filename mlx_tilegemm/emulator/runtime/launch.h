// One dispatch: what runs, on which buffers, under which settings.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "worker.h"

namespace msl_rt {

// Flags of a buffer are RegionFlags.

constexpr uint32_t dynamic_parameter = 0x80000000u;
constexpr uint32_t no_memory = 0xffffffffu;  // a parameter that is no memory, or is left out

enum class Order : uint32_t { forward, reverse, random };

// The Python side mirrors these two layouts.
struct BufferArgument {
  void* data;
  uint64_t bytes;
  uint64_t start;  // offset in `data` of the address that the kernel gets
  uint32_t scalar_size;
  uint32_t alignment;
  uint32_t flags;
};

struct LaunchArguments {
  Entry entry;
  const BufferArgument* buffers;
  const uint64_t* dynamic_bytes;  // sizes of the [[threadgroup(n)]] arguments
  const uint32_t* parameters;     // buffer index, dynamic_parameter | index, or no_memory
  const uint32_t* element_sizes;  // by parameter
  const uint32_t* scalar_sizes;
  const char* const* parameter_names;
  uint32_t buffer_count;
  uint32_t parameter_count;
  uint32_t grid[3];
  uint32_t threadgroup[3];
  uint32_t strict;
  uint32_t order;
  uint32_t workers;
  uint32_t misalign;
  uint64_t seed;
};

struct Launch {
  LaunchArguments arguments = {};
  Extent grid = {}, threadgroup = {}, threadgroups = {};
  uint64_t threadgroup_count = 0;
  Order order = Order::forward;
  bool strict = false;
  std::vector<uint32_t> shuffled;  // for the random order
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
  // Records with smaller clocks are of earlier launches.
  uint64_t start_clock = 0;

  uint64_t take() {  // linear index of the next threadgroup, or threadgroup_count
    const uint64_t turn = next.fetch_add(1, std::memory_order_relaxed);
    if (turn >= threadgroup_count) return threadgroup_count;
    if (order == Order::reverse) return threadgroup_count - 1 - turn;
    return shuffled.empty() ? turn : shuffled[turn];
  }
};

}  // namespace msl_rt
