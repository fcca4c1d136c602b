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
  uint32_t sample;  // how many threadgroups to run, spread over the grid; 0 for all
  uint32_t accesses;  // whether to put the lanes' accesses together
  uint32_t tracked;   // whether the kernel computes shadows; see unset.h
  uint32_t threadgroup_bytes;  // of threadgroup memory that there are
  uint64_t seed;
};

struct Launch {
  LaunchArguments arguments = {};
  bool is_sample() const { return threadgroup_count != grid_count; }

  Extent grid = {}, threadgroup = {}, threadgroups = {};
  uint64_t threadgroup_count = 0;  // to run
  uint64_t grid_count = 0;         // of the whole grid
  Order order = Order::forward;
  bool strict = false;
  std::vector<uint32_t> shuffled;  // for the random order
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> work{0};  // digest of what the first counted threadgroup did; 0 before
  // Records with smaller clocks are of earlier launches.
  uint64_t start_clock = 0;
  // Tells its sites from those of the launches just before it; never 0.
  uint32_t tag = 0;

  static constexpr uint64_t none = UINT64_MAX;

  uint64_t take() {  // linear index of the next threadgroup, or none
    const uint64_t turn = next.fetch_add(1, std::memory_order_relaxed);
    if (turn >= threadgroup_count) return none;
    uint64_t index = turn;
    if (order == Order::reverse) index = threadgroup_count - 1 - turn;
    if (!shuffled.empty()) index = shuffled[turn];
    return is_sample() ? sampled(index) : index;
  }

 private:
  // The first and the last, which may be cut off, and one of each part of those in between: at no
  // fixed distance, for the work of a grid may have a period.
  uint64_t sampled(uint64_t index) const {
    if (index == 0) return 0;
    if (index == threadgroup_count - 1) return grid_count - 1;
    const uint64_t parts = threadgroup_count - 2;
    const uint64_t begin = 1 + (index - 1) * (grid_count - 2) / parts;
    const uint64_t end = 1 + index * (grid_count - 2) / parts;
    return begin + mix(index) % (end - begin);
  }
};

}  // namespace msl_rt
