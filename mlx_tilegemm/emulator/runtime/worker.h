// A worker runs whole threadgroups, one after another: each GPU thread is a fiber, and every
// collective is a rendezvous at which the last lane to arrive does the work for all.
#pragma once

#include <cstdint>

#include "../include/executor/runtime.h"
#include "accesses.h"
#include "findings.h"
#include "memory.h"
#include "unset.h"

namespace msl_rt {

struct Launch;
struct Simdgroup;

// A place in the kernel's text where lanes meet.
struct Place {
  const char* file = nullptr;
  int32_t line = 0;
  Collective kind = Collective::simd_function;

  bool operator==(const Place& other) const {
    return line == other.line && kind == other.kind && same_file(other.file);
  }
  bool operator!=(const Place& other) const { return !(*this == other); }

 private:
  bool same_file(const char* other) const;
};

// A barrier that ordered less than all of a memory space, and when.
struct PartialBarrier {
  uint64_t clock = 0;
  Place place;
  uint32_t flags = 0;
};

// 64 bytes and kept apart from the stacks, whose addresses would put all fibers into the same few
// cache sets.
struct alignas(64) Fiber {
  void* stack_pointer;
  Simdgroup* group;
  Place place;          // where the fiber waits
  Place uniform_place;  // of the last matrix operation that `uniform` covers
  uint64_t uniform;     // hash of the operands of matrix operations since the last collective
  uint32_t products;  // matrix products that the lane has taken part in
  uint16_t thread;    // linear index in the threadgroup
  uint8_t lane;
  uint8_t slot;  // position in the simdgroup's running order
  bool leads;
};

// A product of two matrices that some lanes have left their parts of.
struct alignas(64) Product {
  float a[64];
  float b[64];
  void* targets[simd_width];
  Place place;
  uint64_t uniform;
  uint32_t lanes;
  ElementType type;
};

// Sets of fibers are bit masks by slot, except where a name says lanes.
struct Simdgroup {
  Fiber* fibers;  // in running order
  uint32_t index;
  uint32_t alive;
  uint32_t alive_lanes;
  uint32_t runnable;
  uint32_t at_collective;
  uint32_t at_barrier;
  uint32_t at_product;  // waits for sums of products
  uint32_t joined;      // takes part in the collective under way
  uint32_t cursor;  // slot that ran last
  bool mixed;          // the fibers at a collective are at different places
  bool check_uniform;  // a matrix operation has left hashes to compare
  Place place;
  uint64_t last_uniform;  // hash that the first lane to return had
  uint64_t ordered[2];  // by space: clock of the last barrier that ordered this simdgroup
  PartialBarrier partial[2];  // by space: the last simdgroup_barrier
  Mailbox box;

  // Product n is kept in products[n % kept_products] until it is done.
  static constexpr uint32_t kept_products = 32;
  uint32_t products_done;
  Product products[kept_products];
};

struct Counters {
  uint64_t threadgroup_loaded, threadgroup_stored;
  uint64_t multiply_accumulates;
  uint64_t simdgroup_loads, simdgroup_stores;
  uint64_t threadgroup_barriers, simdgroup_barriers;
  uint64_t simd_functions;
  uint64_t atomics;
  uint64_t threadgroups;
  uint64_t threadgroup_bytes;
  // Signs that a sample does not stand for its grid: threadgroups that did other work than the
  // first, where accesses are noted, and outputs that it filled another share of than its own.
  uint64_t uneven;
  uint64_t buffer_loaded[max_buffers], buffer_stored[max_buffers];
};

constexpr size_t counter_words = sizeof(Counters) / sizeof(uint64_t);

inline const uint64_t* words_of(const Counters& counters) {
  return reinterpret_cast<const uint64_t*>(&counters);
}

// A threadgroup array, as its declaration asked for it.
struct Storage {
  Region* region;
  const char* name;
  uint32_t element_size;
};

// The stacks of a worker's threads, with their shadows and origins behind them.
struct Stacks {
  uintptr_t begin = 0;
  size_t bytes = 0;

  bool holds(uintptr_t address) const { return address - begin < bytes; }
  Shadow shadow(uintptr_t address) const {
    return {
        reinterpret_cast<unsigned char*>(address + bytes),
        reinterpret_cast<uint32_t*>((address + 2 * bytes) & ~uintptr_t(3))};
  }
};

inline uint32_t all_lanes(uint32_t lanes) {
  return lanes == 32 ? ~uint32_t(0) : (uint32_t(1) << lanes) - 1;
}

// The flag of a barrier that covers a space.
inline uint32_t memory_flag(uint32_t space) {
  return space == 0 ? memory_device : memory_threadgroup;
}


// The bits of a float, rounded to those of a bfloat.
uint16_t round_to_bfloat(uint32_t bits);

// Spreads the bits of a number.
inline uint64_t mix(uint64_t value) {
  value ^= value >> 30;
  value *= 0xbf58476d1ce4e5b9ull;
  value ^= value >> 27;
  value *= 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

class Worker {
 public:
  explicit Worker(uint32_t number) : index(number) {}

  bool allocate();
  void begin(Launch* next);
  void run();  // takes threadgroups until there are none

  // Called on fibers.
  bool rendezvous(Place place);
  void release();
  void threadgroup_barrier(uint32_t flags, Place place);
  void simdgroup_barrier(uint32_t flags, Place place);
  uint32_t add_product(void* target, ElementType type, Pair a, Pair b, Place place);
  void settle_products(uint32_t ticket);
  void note_uniform(uint64_t operands, Place place);
  void give_way();
  void* threadgroup_storage(
      uint32_t declaration, const StorageType& type, const char* name, Place place);
  void check_operands(const void* target, ElementType type, Place place);
  void settle_store();
  [[noreturn]] void abandon();

  Finding* report(
      Kind kind, uint64_t pc, Place place, const Region* region = nullptr, uint64_t other_pc = 0);
  void set_thread(uint32_t* out, uint32_t thread) const;  // its position in the threadgroup
  void report_waiting();  // one finding for each place where fibers wait

  bool on_fiber() const { return current != nullptr; }
  // The last simdgroup_barrier of a thread's simdgroup.
  PartialBarrier partial_of(uint32_t thread, uint32_t space) const;
  CallShadows* call_shadows() const { return &call_shadows_[current->thread]; }

  const uint32_t index;
  bool strict = false;
  bool tracked = false;  // the kernel computes shadows
  Launch* launch = nullptr;
  Fiber* current = nullptr;

  uint64_t clock = 1;
  uint64_t threadgroup_start = 1;  // clock at which the running threadgroup began
  uint64_t ordered[2] = {0, 0};    // by space: clock of the last covering threadgroup barrier
  PartialBarrier partial[2];       // by space: the last threadgroup barrier that did not cover it

  Counters counters = {};
  FindingLog findings;
  AccessLog* accesses = nullptr;  // null: not asked for
  Storage storages[max_storages] = {};
  uint64_t last_pc = 0;          // of the latest checked access
  uint32_t tag = 0;              // of the launch
  uint32_t spins = 0;            // atomic accesses that may be part of a waiting loop
  Stacks stacks;
  uint32_t source_origin = 0;  // of the latest load from the source of unset variables
  PendingStore pending = {};
  char* escape_stack = nullptr;  // top of a stack to leave a faulting fiber on

 private:
  void run_threadgroup(uint64_t linear);
  void compare_work(const Counters& before);
  void set_ids();
  void start_fibers(uint64_t linear);
  void start_simdgroup(Simdgroup* group, const uint32_t* lane_order, uint32_t lanes);
  void prepare_storages();
  void place_storage(
      uint32_t declaration, const StorageType& type, const char* name, Place place);
  void check_stacks();

  void wait();
  void finish();
  void resume(Fiber* next);
  Fiber* next_fiber();
  Fiber* settle_simdgroup(Simdgroup* group);
  Fiber* settle_barrier();
  void join(Simdgroup* group, uint32_t slots);
  void compare_uniform(Simdgroup* group);
  void compare_product(const Product& product, Place place);
  bool compute_products(Simdgroup* group);
  void finish_product(Simdgroup* group, Product* product);
  bool settle_group_products(Simdgroup* group);
  void compare_last_uniform(Simdgroup* group);
  void order_memory(uint32_t flags, Simdgroup* only, Place place);
  void report_divergence(Place place, const Fiber* fiber, const char* why);
  void report_split(Simdgroup* group, uint32_t slots);
  void finish_barrier(Place place);
  char* stack_top(uint32_t thread) const;
  static void fiber_main();

  void* scheduler_ = nullptr;
  Fiber* fibers_ = nullptr;
  Simdgroup* groups_ = nullptr;
  ThreadIds* ids_ = nullptr;
  CallShadows* call_shadows_ = nullptr;
  void** arguments_ = nullptr;
  AccessLog access_log_;
  void* absent_ = nullptr;  // stands in for buffers that a function constant leaves out
  Extent position_ = {};
  Extent shape_ = {};  // of the running threadgroup
  uint32_t threads_ = 0;
  uint32_t simdgroups_ = 0;
  uint32_t alive_ = 0;
  uint32_t waiting_ = 0;  // fibers at a threadgroup barrier
  uint32_t barrier_flags_ = 0;
  bool barrier_mixed_ = false;
  Place barrier_place_;
  uint32_t cursor_ = 0;  // simdgroup that ran last
};

// Of the calling OS thread; __thread has no initialiser to run.
extern __thread Worker* this_worker;

inline Worker* current_worker() { return this_worker; }

}  // namespace msl_rt
