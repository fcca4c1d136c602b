#include "shadow.h"

#include <atomic>
#include <cstdio>
#include <thread>

#include "launch.h"

namespace msl_rt {

namespace {

bool is_store(Access access) {
  return access != Access::load && access != Access::atomic_load;
}

bool is_atomic(Access access) {
  return access >= Access::atomic_load;
}

uint32_t access_code(Access access) {
  return is_atomic(access) ? 2 : is_store(access) ? 1 : 0;
}

// Launches begin with making sure that it is there.
AddressSpace* space() { return AddressSpace::instance(); }

void describe_access(
    Finding* finding, const Region* region, uintptr_t address, size_t bytes, Access access) {
  finding->access = access_code(access);
  finding->offset = static_cast<int64_t>(address - region->start);
  finding->size = bytes;
}

void report_access(
    Worker* worker, Kind kind, uint64_t pc, const Region* region, uintptr_t address, size_t bytes,
    Access access) {
  Finding* finding = worker->report(kind, pc, Place(), region);
  if (finding != nullptr) describe_access(finding, region, address, bytes, access);
}

// The view that one access has of the records it meets.
struct Observer {
  Worker* worker;
  const Region* region;
  uint32_t space;
  uint32_t thread;
  const Simdgroup* group;
  uintptr_t address;
  size_t bytes;
  Access access;
  uint64_t pc;

  // Whether a record of another threadgroup is of this launch. Threadgroup memory starts anew with
  // each threadgroup.
  bool is_live(Record record) const {
    return space == static_cast<uint32_t>(Space::device) &&
           record.clock() >= worker->launch->start_clock;
  }

  bool same_threadgroup(Record record) const {
    return record.worker() == worker->index && record.clock() >= worker->threadgroup_start;
  }

  // For records of the same threadgroup.
  bool is_ordered(Record record) const {
    const uint64_t flags = record.flags();
    if (flags & record_foreign) return false;
    if (!(flags & record_many) && record.thread() == thread) return true;
    const bool same_simdgroup = record.thread() / simd_width == thread / simd_width;
    if (same_simdgroup && !(flags & record_spread)) return record.clock() < group->ordered[space];
    return record.clock() < worker->ordered[space];
  }

  // Whether an earlier access to the same memory may run at the same time.
  bool conflicts(Record record) const {
    if (same_threadgroup(record)) return !is_ordered(record);
    return is_live(record);
  }

  // The record that stands for `previous` and for this access.
  uint64_t merged(Record previous, bool atomic) const {
    uint64_t flags = atomic ? record_atomic : 0;
    if (same_threadgroup(previous)) {
      if (!is_ordered(previous)) {
        flags |= record_many | (previous.flags() & (record_many | record_spread | record_foreign));
        if (previous.thread() / simd_width != thread / simd_width) flags |= record_spread;
      }
    } else if (is_live(previous)) {
      flags |= record_many | record_spread | record_foreign;
    }
    return Record(worker->clock, flags, worker->index, thread).bits();
  }

  Finding* report(Kind kind, uint64_t other_pc = 0) const {
    Finding* finding = worker->report(kind, pc, Place(), region, other_pc);
    if (finding != nullptr) describe_access(finding, region, address, bytes, access);
    return finding;
  }

  void report_race(Record other, bool other_wrote, uint32_t other_site) const {
    Finding* finding = report(Kind::race, address_of(other_site, pc));
    if (finding == nullptr) return;
    const bool foreign = !same_threadgroup(other) || (other.flags() & record_foreign);
    finding->in_other_threadgroup = foreign ? 1 : 0;
    finding->other_access = other.flags() & record_atomic ? 2 : other_wrote ? 1 : 0;
    worker->set_thread(finding->other_thread, other.thread());
    if (!foreign) explain(finding, other);
  }

  // Names a barrier between this access and an earlier one that does not order the two.
  void explain(Finding* finding, Record other) const {
    const PartialBarrier& whole = worker->partial[space];
    if (whole.clock > other.clock()) {
      write_cover(finding, "threadgroup_barrier", whole);
      return;
    }
    // Simdgroups pass theirs on their own: this one's may come next, and the other's may be behind it.
    PartialBarrier part = group->partial[space];
    const bool apart = other.thread() / simd_width != thread / simd_width;
    if (apart && part.clock <= other.clock()) part = worker->partial_of(other.thread(), space);
    if (part.clock == 0 || (!apart && part.clock <= other.clock())) return;
    if (!(part.flags & memory_flag(space))) {
      write_cover(finding, "simdgroup_barrier", part);
    } else if (apart) {
      std::snprintf(
          finding->text, sizeof(finding->text),
          "the simdgroup_barrier at line %d orders the threads of one simdgroup", part.place.line);
    }
  }

  static void write_cover(Finding* finding, const char* what, const PartialBarrier& barrier) {
    const char* memory = "no memory";
    if (barrier.flags & memory_texture) memory = "texture memory only";
    if (barrier.flags & memory_device) memory = "device memory only";
    if (barrier.flags & memory_threadgroup) memory = "threadgroup memory only";
    std::snprintf(
        finding->text, sizeof(finding->text), "the %s at line %d covers %s", what,
        barrier.place.line, memory);
  }
};

// Threadgroup memory belongs to one worker. Device memory is shared by all of them: its records are
// exchanged atomically, each access first leaving its own and then looking at the other kind, so
// that of two conflicting accesses at least one sees the other.
template <bool Shared>
uint64_t look(uint64_t* word) {
  return Shared ? __atomic_load_n(word, __ATOMIC_SEQ_CST) : *word;
}

// Leaves the access's own record in a word and returns the one that was there.
template <bool Shared>
__attribute__((noinline)) Record leave(uint64_t* word, const Observer& observer, bool atomic) {
  uint64_t seen = look<Shared>(word);
  for (;;) {
    const uint64_t mine = observer.merged(Record(seen), atomic);
    if (mine == seen) return Record(seen);
    if (!Shared) {
      *word = mine;
      return Record(seen);
    }
    if (__atomic_compare_exchange_n(
            word, &seen, mine, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
      return Record(seen);
    }
  }
}

// Sites only serve messages: a shared cell may pair a record with the site of another one.
template <bool Shared>
void leave_site(uint32_t* site, const Observer& observer) {
  const uint32_t low = static_cast<uint32_t>(observer.pc);
  if (Shared) {
    const uint32_t tagged = observer.worker->tag << site_bits | (low & site_mask);
    __atomic_store_n(site, tagged, __ATOMIC_RELEASE);
  } else {
    *site = low;
  }
}

// The site of a record of this launch. Who leaves a record in a shared cell leaves its site next,
// without waiting for anybody but those before it; until then the site is of an earlier launch.
template <bool Shared>
uint32_t look_site(uint32_t* site, const Observer& observer) {
  if (!Shared) return *site;
  for (int turns = 0; turns < 1 << 16; ++turns) {
    const uint32_t found = __atomic_load_n(site, __ATOMIC_ACQUIRE);
    if (found >> site_bits == observer.worker->tag) return found;
    std::this_thread::yield();
  }
  return 0;
}

template <bool Shared>
__attribute__((noinline)) void check_load(Cell* cell, const Observer& observer) {
  leave<Shared>(&cell->read, observer, false);
  leave_site<Shared>(&cell->read_site, observer);
  const Record written(look<Shared>(&cell->write));
  if (observer.conflicts(written)) {
    observer.report_race(written, true, look_site<Shared>(&cell->write_site, observer));
  } else if (!observer.same_threadgroup(written) && !observer.is_live(written) &&
             !(observer.region->flags & region_initialized)) {
    observer.report(Kind::uninitialized);
  }
}

// Leaves a store's record and site; returns the record that was there, and its site if the two
// conflict.
template <bool Shared>
Record leave_store(Cell* cell, const Observer& observer, bool atomic, uint32_t* site) {
  const Record written = leave<Shared>(&cell->write, observer, atomic);
  if (observer.conflicts(written)) *site = look_site<Shared>(&cell->write_site, observer);
  leave_site<Shared>(&cell->write_site, observer);
  return written;
}

template <bool Shared>
void check_read_before(Cell* cell, const Observer& observer) {
  const Record read(look<Shared>(&cell->read));
  if (!observer.conflicts(read)) return;
  observer.report_race(read, false, look_site<Shared>(&cell->read_site, observer));
}

template <bool Shared>
__attribute__((noinline)) void check_store(Cell* cell, const Observer& observer) {
  uint32_t site = 0;
  const Record written = leave_store<Shared>(cell, observer, false, &site);
  if (observer.conflicts(written)) observer.report_race(written, true, site);
  check_read_before<Shared>(cell, observer);
}

template <bool Shared>
__attribute__((noinline)) void check_atomic(Cell* cell, const Observer& observer) {
  const Access access = observer.access;
  uint32_t site = 0;
  Record written(look<Shared>(&cell->write));
  if (is_store(access)) {
    written = leave_store<Shared>(cell, observer, true, &site);
    check_read_before<Shared>(cell, observer);
  } else if (observer.conflicts(written)) {
    site = look_site<Shared>(&cell->write_site, observer);
  }
  if (!(written.flags() & record_atomic) && observer.conflicts(written)) {
    observer.report_race(written, true, site);
  }
  if (access == Access::atomic_store || (observer.region->flags & region_initialized)) return;
  if (!observer.same_threadgroup(written) && !observer.is_live(written)) {
    observer.report(Kind::uninitialized);
  }
}

struct AccessOf {
  Worker* worker;
  const Region* region;
  uintptr_t address;
  size_t bytes;
  Access access;
  uint64_t pc;
};

template <bool Shared>
__attribute__((noinline)) void check_cell(Cell* cell, const AccessOf& of) {
  const Fiber* fiber = of.worker->current;
  const Observer observer = {
      of.worker,    of.region,  static_cast<uint32_t>(of.region->space),
      fiber->thread, fiber->group, of.address, of.bytes, of.access, of.pc};
  if (of.access == Access::load) {
    check_load<Shared>(cell, observer);
  } else if (of.access == Access::store) {
    check_store<Shared>(cell, observer);
  } else {
    check_atomic<Shared>(cell, observer);
  }
}

// Answers the common cases by comparing whole records, which begin with the clock.
struct Shortcut {
  uint64_t mine;     // the record of this access, were it alone
  uint64_t started;  // no record of this threadgroup is smaller
  uint64_t ordered;  // records of this threadgroup below this one are ordered before this access

  explicit Shortcut(const Worker* worker)
      : mine(Record(worker->clock, 0, worker->index, worker->current->thread).bits()),
        started(worker->threadgroup_start << 20),
        ordered(worker->ordered[static_cast<uint32_t>(Space::threadgroup)] << 20) {}

  // Other threads have read since the last barrier, and the record says so already.
  bool is_known_reader(uint64_t read) const {
    constexpr uint64_t spread = (record_many | record_spread) << 16;
    return read == mine || ((read & spread) == spread && read >> 20 == mine >> 20);
  }

  bool load(Cell* cell, uint64_t pc) const {
    if (cell->write < started || cell->write >= ordered) return false;
    if (is_known_reader(cell->read)) return true;
    if (cell->read >= ordered) return false;
    cell->read = mine;
    cell->read_site = static_cast<uint32_t>(pc);
    return true;
  }

  bool store(Cell* cell, uint64_t pc) const {
    if (cell->write >= ordered || cell->read >= ordered) return false;
    cell->write = mine;
    cell->write_site = static_cast<uint32_t>(pc);
    return true;
  }
};

void count(const AccessOf& of) {
  Counters& counters = of.worker->counters;
  const bool loads = of.access != Access::store && of.access != Access::atomic_store;
  const bool stores = is_store(of.access);
  if (AccessLog* accesses = of.worker->accesses) {
    const uint32_t thread = of.worker->current->thread;
    accesses->note(thread, of.region, of.address, of.bytes, stores, of.pc);
  }
  if (of.region->space == Space::threadgroup) {
    if (loads) counters.threadgroup_loaded += of.bytes;
    if (stores) counters.threadgroup_stored += of.bytes;
    return;
  }
  if (loads) counters.buffer_loaded[of.region->index] += of.bytes;
  if (stores) counters.buffer_stored[of.region->index] += of.bytes;
}

void check_threadgroup(Cell* cell, const Cell* end, const AccessOf& of) {
  const Shortcut shortcut(of.worker);
  for (; cell != end; ++cell) {
    if (of.access == Access::load && shortcut.load(cell, of.pc)) continue;
    if (of.access == Access::store && shortcut.store(cell, of.pc)) continue;
    check_cell<false>(cell, of);
  }
}

}  // namespace

const Region* check_access(
    Worker* worker, uintptr_t address, size_t bytes, Access access, uint64_t pc) {
  const Region* region = space()->find(address);
  const uintptr_t offset = address - region->start;
  worker->last_pc = pc;
  if (!region->holds(address, bytes)) {
    report_access(worker, Kind::out_of_bounds, pc, region, address, bytes, access);
    return nullptr;
  }
  const AccessOf of = {worker, region, address, bytes, access, pc};
  count(of);
  if (region->flags & region_read_only) {
    if (is_store(access)) {
      report_access(worker, Kind::store_to_input, pc, region, address, bytes, access);
    }
    return region;
  }
  Cell* first = region->cells + (offset >> region->granule_shift);
  const Cell* end = region->cells + ((offset + bytes - 1) >> region->granule_shift) + 1;
  if (region->space == Space::threadgroup) {
    check_threadgroup(first, end, of);
    return region;
  }
  for (Cell* cell = first; cell != end; ++cell) check_cell<true>(cell, of);
  return region;
}

void report_unset(
    Worker* worker, uint64_t pc, const Place& place, uint32_t origin, const char* what) {
  Finding* finding = worker->report(Kind::uninitialized, pc, place);
  if (finding == nullptr) return;
  finding->origin = origin;
  std::snprintf(finding->text, sizeof(finding->text), "%s", what);
}

void report_unset_store(
    Worker* worker, uintptr_t address, size_t bytes, uint64_t pc, uint32_t origin) {
  const Region* region = space()->find(address);
  Finding* finding = worker->report(Kind::uninitialized, pc, Place(), region);
  if (finding == nullptr) return;
  describe_access(finding, region, address, bytes, Access::store);
  finding->origin = origin;
}

void report_misaligned(Worker* worker, uintptr_t address, size_t alignment, uint64_t pc) {
  const Region* region = space()->find(address);
  report_access(worker, Kind::misaligned, pc, region, address, alignment, Access::load);
}

size_t count_unwritten(const Launch& launch, const Region* region, size_t* first) {
  const size_t cells = region->bytes >> region->granule_shift;
  size_t missing = 0;
  for (size_t i = 0; i < cells; ++i) {
    const Record record(region->cells[i].write);
    if (record.clock() >= launch.start_clock) continue;
    if (missing++ == 0) *first = i;
  }
  return missing;
}

void check_written(Launch* launch, const Region* region, Worker* reporter) {
  size_t first = 0;
  const size_t missing = count_unwritten(*launch, region, &first);
  if (missing == 0) return;
  Finding* finding = reporter->report(Kind::unwritten_output, 0, Place(), region);
  if (finding == nullptr) return;
  finding->offset = static_cast<int64_t>(first << region->granule_shift);
  finding->size = missing << region->granule_shift;
}

}  // namespace msl_rt
