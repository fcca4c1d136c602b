// Broken rules, as the runtime records them. Recording must not allocate: it happens on fiber
// stacks and in signal handlers.
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
  uint64_t other_pc;  // of the access that this one is in conflict with
  const char* file;
  const char* owner_name;
  int32_t line;
  uint32_t thread[3];
  uint32_t threadgroup[3];
  // The earlier access of a race.
  uint32_t other_access;
  uint32_t other_thread[3];
  uint32_t in_other_threadgroup;
  uint32_t count;
  uint32_t origin;  // of a value that was never set; see unset.h
  char text[104];
};

class FindingLog {
 public:
  static constexpr size_t capacity = 128;

  // What tells one finding from another.
  struct Key {
    Kind kind;
    Owner owner;
    uint32_t owner_index;
    int32_t line;
    uint64_t pc;
    uint64_t other_pc;
    const char* file;
  };

  // The entry to fill for a finding, or null when it is known already or the log is full.
  Finding* add(const Key& key);

  bool has(Kind kind) const;
  void clear() { size_ = 0; }
  size_t size() const { return size_; }
  const Finding& operator[](size_t i) const { return entries_[i]; }

 private:
  size_t size_ = 0;
  Finding entries_[capacity];
};

}  // namespace msl_rt
