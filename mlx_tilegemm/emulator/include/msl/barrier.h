// Barriers. mem_flags decide which accesses a barrier orders, exactly as the checks see it.
#pragma once

#include "executor/runtime.h"

namespace metal {

enum class mem_flags : msl_rt::uint32_t {
  mem_none = msl_rt::memory_none,
  mem_device = msl_rt::memory_device,
  mem_threadgroup = msl_rt::memory_threadgroup,
  mem_texture = msl_rt::memory_texture,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16,
};

constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  using bits = msl_rt::uint32_t;
  return static_cast<mem_flags>(static_cast<bits>(a) | static_cast<bits>(b));
}

constexpr mem_flags operator&(mem_flags a, mem_flags b) {
  using bits = msl_rt::uint32_t;
  return static_cast<mem_flags>(static_cast<bits>(a) & static_cast<bits>(b));
}

inline void threadgroup_barrier(mem_flags flags, msl_rt::Site site = msl_rt::Site::here()) {
  msl_rt_threadgroup_barrier(static_cast<msl_rt::uint32_t>(flags), site.file, site.line);
}

inline void simdgroup_barrier(mem_flags flags, msl_rt::Site site = msl_rt::Site::here()) {
  msl_rt_simdgroup_barrier(static_cast<msl_rt::uint32_t>(flags), site.file, site.line);
}

}  // namespace metal
