// Broken rules, as the runtime records them. Recording must not allocate: it happens on fiber stacks
// and in signal handlers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace msl_rt {

enum class Kind : uint32_t {
  out_of_bounds,
  uninitialized,
  race,
  divergence,
  misaligned,
  unwritten_output,
  store_to_input,
  threadgroup_memory,
  undefined_behavior,
  time_limit,
  crash,
};

enum class Owner : uint32_t { none, buffer, storage };

// The Python side mirrors this layout.
struct Finding {
  Kind kind;
  Owner owner;
  uint32_t owner_index;
  uint32_t element_size;  // of a threadgroup array
  uint32_t access;  // 0 load, 1 store, 2 atomic
  int64_t offset;   // bytes from the owner's start
  uint64_t size;    // bytes of the access
  uint64_t pc;
  const char* file;
  const char* owner_name;
  int32_t line;
  uint32_t thread[3];
  uint32_t threadgroup[3];
  int32_t other_thread;      // linear, -1 when there is none
  int32_t other_threadgroup;  // 0 the same, 1 another, -1 when there is none
  uint32_t count;
  char text[116];
};

class FindingLog {
 public:
  static constexpr size_t capacity = 128;

  // The entry to fill for this place, or null when the place is known already or the log is full.
  Finding* add(Kind kind, uint64_t pc, const char* file, int32_t line, Owner owner, uint32_t index);

  void clear() { size_ = 0; }
  size_t size() const { return size_; }
  const Finding& operator[](size_t i) const { return entries_[i]; }

 private:
  size_t size_ = 0;
  Finding entries_[capacity];
};

}  // namespace msl_rt
