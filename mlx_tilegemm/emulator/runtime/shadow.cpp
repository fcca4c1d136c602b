#include "shadow.h"

#include <atomic>
#include <cstdio>

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

Place no_place() {
  return Place();
}

Finding* report_access(
    Worker* worker, Kind kind, uint64_t pc, const Region* region, uintptr_t address, size_t bytes,
    Access access) {
  Finding* finding = worker->report(kind, pc, no_place(), region);
  if (finding == nullptr) return nullptr;
  finding->access = access_code(access);
  finding->offset = region == nullptr ? 0 : static_cast<int64_t>(address - region->start);
  finding->size = bytes;
  return finding;
}

// The view that one access has of the records it meets.
struct Observer {
  Worker* worker;
  uint32_t space;
  uint32_t thread;
  const Simdgroup* group;

  // Whether a record of another threadgroup is of this launch. Threadgroup memory starts anew with
  // each threadgroup.
  bool is_live(Record record) const {
    if (space == static_cast<uint32_t>(Space::threadgroup)) return false;
    return record.clock() >= worker->launch->start_clock[record.worker()];
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
  Record merged(Record previous, bool atomic) const {
    uint64_t flags = atomic ? record_atomic : 0;
    if (same_threadgroup(previous)) {
      if (!is_ordered(previous)) {
        flags |= record_many | (previous.flags() & (record_many | record_spread | record_foreign));
        if (previous.thread() / simd_width != thread / simd_width) flags |= record_spread;
      }
    } else if (is_live(previous)) {
      flags |= record_many | record_spread | record_foreign;
    }
    return Record(worker->clock, flags, worker->index, thread);
  }
};

void report_race(
    const Observer& observer, const Region* region, Record other, uintptr_t address, size_t bytes,
    Access access, bool other_wrote, uint64_t pc) {
  Finding* finding =
      report_access(observer.worker, Kind::race, pc, region, address, bytes, access);
  if (finding == nullptr) return;
  const bool foreign = !observer.same_threadgroup(other) || (other.flags() & record_foreign);
  finding->other_thread = static_cast<int32_t>(other.thread());
  finding->other_threadgroup = foreign ? 1 : 0;
  std::snprintf(
      finding->text, sizeof(finding->text), "%s%s", other_wrote ? "written" : "read",
      other.flags() & record_atomic ? " atomically" : "");
}

// Threadgroup memory belongs to one worker. Device memory is shared by all of them: its records are
// exchanged atomically, each access first leaving its own and then looking at the other kind, so
// that of two conflicting accesses at least one sees the other.
template <bool Shared>
struct Cells {
  static uint64_t load(uint64_t* word) {
    return Shared ? __atomic_load_n(word, __ATOMIC_SEQ_CST) : *word;
  }

  static Record replace(uint64_t* word, const Observer& observer, bool atomic) {
    uint64_t seen = Shared ? __atomic_load_n(word, __ATOMIC_RELAXED) : *word;
    for (;;) {
      const uint64_t mine = observer.merged(Record(seen), atomic).bits();
      if (!Shared) {
        *word = mine;
        return Record(seen);
      }
      if (mine == seen || __atomic_compare_exchange_n(
                              word, &seen, mine, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
        return Record(seen);
      }
    }
  }
};

template <bool Shared>
struct Checker {
  Observer observer;
  const Region* region;
  uintptr_t address;
  size_t bytes;
  Access access;
  uint64_t pc;

  void race(Record other, bool other_wrote) const {
    report_race(observer, region, other, address, bytes, access, other_wrote, pc);
  }

  void load(Cell* cell) const {
    Cells<Shared>::replace(&cell->read, observer, false);
    const Record written(Cells<Shared>::load(&cell->write));
    if (observer.same_threadgroup(written)) {
      if (!observer.is_ordered(written)) race(written, true);
    } else if (Shared && observer.is_live(written)) {
      race(written, true);
    } else if (!(region->flags & region_initialized)) {
      report_access(observer.worker, Kind::uninitialized, pc, region, address, bytes, access);
    }
  }

  void store(Cell* cell) const {
    const Record written = Cells<Shared>::replace(&cell->write, observer, false);
    if (observer.conflicts(written)) race(written, true);
    const Record read(Cells<Shared>::load(&cell->read));
    if (observer.conflicts(read)) race(read, false);
  }

  void atomic(Cell* cell) const {
    const bool writes = is_store(access);
    const Record written = writes ? Cells<Shared>::replace(&cell->write, observer, true)
                                  : Record(Cells<Shared>::load(&cell->write));
    if (!(written.flags() & record_atomic) && observer.conflicts(written)) race(written, true);
    if (writes) {
      const Record read(Cells<Shared>::load(&cell->read));
      if (observer.conflicts(read)) race(read, false);
    }
    if (access == Access::atomic_store || (region->flags & region_initialized)) return;
    if (!observer.same_threadgroup(written) && !(Shared && observer.is_live(written))) {
      report_access(observer.worker, Kind::uninitialized, pc, region, address, bytes, access);
    }
  }

  void run() const {
    const size_t first = (address - region->start) >> region->granule_shift;
    const size_t last = (address - region->start + bytes - 1) >> region->granule_shift;
    for (size_t i = first; i <= last; ++i) {
      Cell* cell = &region->cells[i];
      if (is_atomic(access)) {
        atomic(cell);
      } else if (is_store(access)) {
        store(cell);
      } else {
        load(cell);
      }
    }
  }
};

void count(Worker* worker, const Region* region, size_t bytes, Access access) {
  Counters& counters = worker->counters;
  const bool loads = access != Access::store && access != Access::atomic_store;
  const bool stores = is_store(access);
  if (region->space == Space::threadgroup) {
    if (loads) counters.threadgroup_loaded += bytes;
    if (stores) counters.threadgroup_stored += bytes;
    return;
  }
  if (loads) counters.buffer_loaded[region->index] += bytes;
  if (stores) counters.buffer_stored[region->index] += bytes;
}

}  // namespace

void check_access(Worker* worker, uintptr_t address, size_t bytes, Access access, uint64_t pc) {
  const Region* region = AddressSpace::instance()->find(address);
  if (region == nullptr) return;
  const uintptr_t offset = address - region->start;
  if (offset >= region->bytes || bytes > region->bytes - offset) {
    report_access(worker, Kind::out_of_bounds, pc, region, address, bytes, access);
    return;
  }
  count(worker, region, bytes, access);
  if (region->flags & region_read_only) {
    if (is_store(access)) {
      report_access(worker, Kind::store_to_input, pc, region, address, bytes, access);
    }
    return;
  }
  const Fiber* fiber = worker->current;
  const Observer observer = {
      worker, static_cast<uint32_t>(region->space), fiber->thread, fiber->group};
  if (region->space == Space::threadgroup) {
    Checker<false>{observer, region, address, bytes, access, pc}.run();
  } else {
    Checker<true>{observer, region, address, bytes, access, pc}.run();
  }
}

void report_misaligned(
    Worker* worker, uintptr_t address, size_t bytes, Access access, uint64_t pc) {
  const Region* region = AddressSpace::instance()->find(address);
  if (region == nullptr) return;
  report_access(worker, Kind::misaligned, pc, region, address, bytes, access);
}

void check_written(Launch* launch, const Region* region, Worker* reporter) {
  const size_t cells = region->bytes >> region->granule_shift;
  size_t missing = 0;
  size_t first = 0;
  for (size_t i = 0; i < cells; ++i) {
    const Record record(region->cells[i].write);
    if (record.clock() >= launch->start_clock[record.worker()]) continue;
    if (missing++ == 0) first = i;
  }
  if (missing == 0) return;
  Finding* finding = reporter->report(Kind::unwritten_output, 0, no_place(), region);
  if (finding == nullptr) return;
  finding->offset = static_cast<int64_t>(first << region->granule_shift);
  finding->size = missing << region->granule_shift;
}

}  // namespace msl_rt
