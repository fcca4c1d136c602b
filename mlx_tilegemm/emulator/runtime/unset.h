// What the checks know of values: for every bit whether it was ever set. The code of a tracked
// kernel (-fsanitize=kernel-memory) computes a shadow with each value, whose ones are bits that were
// never set, and an origin, which tells the variable. Here is where those of memory are.
//
// Stacks and threadgroup memory have shadows of their own. Buffers need none: what is stored to them
// must be set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../include/executor/runtime.h"

namespace msl_rt {

class Worker;
struct Place;

// Where calls leave the shadows and origins of their parameters and results, one for each thread.
// The layout is the compiler's.
struct CallShadows {
  static constexpr size_t words = 100;
  uint64_t parameters[words];
  uint64_t result[words];
  uint64_t variadic[words];
  uint64_t variadic_origins[words];
  uint64_t variadic_overflow;
  uint32_t parameter_origins[2 * words];
  uint32_t result_origin;
};

// Shadow and origin of what is accessed, in the form that the compiler takes them.
struct Shadow {
  unsigned char* bits;
  uint32_t* origin;
};

// Variables get their contents from here before they are set; see the driver's unset.py. An origin
// is an offset in it, plus one. No variable is at its beginning.
constexpr size_t unset_bytes = size_t(1) << 20;
constexpr uint32_t unknown_origin = 1;

// A store to a buffer whose shadow the running thread is about to leave.
struct PendingStore {
  static constexpr size_t largest = 4096;
  uintptr_t address;
  size_t bytes;  // 0: none
  uint64_t pc;
  uint32_t origin;
  alignas(64) unsigned char bits[largest];
};

// Origin of the first bit of a range that was never set, 0 when all were.
uint32_t find_unset(const Worker& worker, const void* address, size_t bytes);

// Copies what is known of a range, of which only stacks and threadgroup memory keep anything.
void copy_shadow(const Worker& worker, void* to, const void* from, size_t bytes);

// What simd functions hand on.
void take_shadow(const Worker& worker, SlotShadow* slot, const void* value, size_t bytes);
void give_shadow(const Worker& worker, void* value, const SlotShadow& slot, size_t bytes);

// Make a range count as set, or as not.
void mark_set(const Worker& worker, const void* address, size_t bytes);
void mark_unset(const Worker& worker, const void* address, size_t bytes, uint32_t origin);

// Report that what a thread does or stores depends on a variable that was never set.
void report_unset(
    Worker* worker, uint64_t pc, const Place& place, uint32_t origin, const char* what);
void report_unset_store(
    Worker* worker, uintptr_t address, size_t bytes, uint64_t pc, uint32_t origin);

}  // namespace msl_rt
