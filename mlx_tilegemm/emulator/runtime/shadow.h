// What the checks know about memory. Each granule of a tracked region has a record of its last
// write and of its last read. A record holds who did it (worker and thread) and when (the worker's clock,
// which every barrier advances). Two accesses are ordered if a barrier that covers their memory and
// both threads came between them, so findings do not depend on how threads happened to run.
#pragma once

#include "worker.h"

namespace msl_rt {

enum class Access : uint32_t { load, store, atomic_load, atomic_store, atomic_modify };

// Bits of a record: clock 44, flags 4, worker 6, thread 10.
constexpr uint64_t record_atomic = 1;
constexpr uint64_t record_many = 2;     // several threads, none of them ordered before another
constexpr uint64_t record_spread = 4;   // of several simdgroups
constexpr uint64_t record_foreign = 8;  // of several threadgroups

class Record {
 public:
  explicit Record(uint64_t bits) : bits_(bits) {}
  Record(uint64_t clock, uint64_t flags, uint32_t worker, uint32_t thread)
      : bits_(clock << 20 | flags << 16 | uint64_t(worker) << 10 | thread) {}

  uint64_t bits() const { return bits_; }
  uint64_t clock() const { return bits_ >> 20; }
  uint64_t flags() const { return bits_ >> 16 & 15; }
  uint32_t worker() const { return bits_ >> 10 & 63; }
  uint32_t thread() const { return bits_ & 1023; }

 private:
  uint64_t bits_;
};

// A site says where an access stood: the low bits of its code address, and in cells that workers
// share the tag of the launch.
constexpr uint32_t site_bits = 24;
constexpr uint32_t site_mask = (1u << site_bits) - 1;

// The code address of a site: of all with its low bits the one nearest to `pc`, for the code of a
// kernel is in one place. 0 for no site.
inline uint64_t address_of(uint32_t site, uint64_t pc) {
  if (site == 0) return 0;
  const uint32_t ahead = (site - static_cast<uint32_t>(pc)) & site_mask;
  return pc + ahead - (ahead > site_mask / 2 ? uint64_t(1) << site_bits : 0);
}

// Checks one access of the running fiber to an address that AddressSpace owns; `pc` says where it
// stands. Gives what is accessed, null outside of it.
const Region* check_access(Worker* worker, uintptr_t address, size_t bytes, Access access, uint64_t pc);

// Reports an address of ours that is no multiple of `alignment`.
void report_misaligned(Worker* worker, uintptr_t address, size_t alignment, uint64_t pc);

// Granules that no thread has written; `first` becomes the first of them.
size_t count_unwritten(const Launch& launch, const Region* region, size_t* first);

// Reports such granules of an output.
void check_written(Launch* launch, const Region* region, Worker* reporter);

}  // namespace msl_rt
