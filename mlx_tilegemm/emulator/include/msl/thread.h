// What a thread of a kernel knows of itself, and what barriers and atomics are told. The emulator's
// runtime includes this file too, so it holds nothing of the Metal language and no system header.
#pragma once

namespace msl_rt {

using size_t = __SIZE_TYPE__;
using uint16_t = __UINT16_TYPE__;
using uint32_t = __UINT32_TYPE__;
using int32_t = __INT32_TYPE__;
using uint64_t = __UINT64_TYPE__;

constexpr uint32_t simd_width = 32;

// Where in the kernel's text a collective stands. Taken from the caller by default arguments, so it
// survives inlining and follows #line.
struct Site {
  const char* file;
  int32_t line;

  static constexpr Site here(const char* file = __builtin_FILE(), int32_t line = __builtin_LINE()) {
    return Site{file, line};
  }
};

struct Extent {
  uint32_t x, y, z;
};

struct ThreadIds {
  Extent position_in_grid;
  Extent position_in_threadgroup;
  Extent threadgroup_position;
  Extent threads_per_grid;
  Extent threadgroups_per_grid;
  Extent threads_per_threadgroup;
  Extent dispatch_threads_per_threadgroup;
  uint32_t index_in_threadgroup;
  uint32_t index_in_simdgroup;
  uint32_t simdgroup_index;
  uint32_t simdgroups_per_threadgroup;
  uint32_t dispatch_simdgroups_per_threadgroup;
  uint32_t index_in_quadgroup;
  uint32_t quadgroup_index;
  uint32_t quadgroups_per_threadgroup;
  uint32_t dispatch_quadgroups_per_threadgroup;
};

enum MemoryFlags : uint32_t {
  memory_none = 0,
  memory_device = 1,
  memory_threadgroup = 2,
  memory_texture = 4,
};

enum class AtomicAccess : uint32_t { load, store, modify };

}  // namespace msl_rt
