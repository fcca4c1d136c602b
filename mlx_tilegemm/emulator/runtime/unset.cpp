#include "unset.h"

#include <algorithm>
#include <cstring>

#include "shadow.h"

extern "C" {
MSL_RT_EXPORT extern unsigned char msl_rt_unset[msl_rt::unset_bytes];
unsigned char msl_rt_unset[msl_rt::unset_bytes];
}

namespace msl_rt {

namespace {

// No value that a thread loads or stores at once is larger.
constexpr size_t largest_value = PendingStore::largest;

unsigned char all_set[largest_value];
uint32_t origin_of_set = 0;

// What is known of a range of memory: its shadow, or one origin for all of it, 0 when it is set.
struct Known {
  Shadow shadow = {nullptr, nullptr};
  uint32_t origin = 0;
};

uint32_t source_origin(uintptr_t address) {
  const uintptr_t offset = address - reinterpret_cast<uintptr_t>(msl_rt_unset);
  return offset < unset_bytes ? static_cast<uint32_t>(offset) + 1 : 0;
}

Known look(const Worker& worker, uintptr_t address, size_t bytes) {
  Known known;
  if (worker.stacks.holds(address)) {
    known.shadow = worker.stacks.shadow(address);
  } else if (AddressSpace::owns(address)) {
    const Region* region = AddressSpace::instance()->find(address);
    if (region->space == Space::threadgroup && region->holds(address, bytes)) {
      known.shadow = AddressSpace::shadow(address);
    }
  } else {
    known.origin = source_origin(address);
  }
  return known;
}

// Index of the first byte that is not zero, `bytes` when there is none.
size_t first_one(const unsigned char* bits, size_t bytes) {
  size_t index = 0;
  for (uint64_t word; index + sizeof(word) <= bytes; index += sizeof(word)) {
    std::memcpy(&word, bits + index, sizeof(word));
    if (word != 0) break;
  }
  while (index < bytes && bits[index] == 0) ++index;
  return index;
}

// Origin of the first bit that was never set, 0 when there is none.
uint32_t first_origin(Shadow shadow, size_t bytes) {
  const size_t found = first_one(shadow.bits, bytes);
  return found == bytes ? 0 : std::max(shadow.origin[found / 4], unknown_origin);
}

size_t origin_words(size_t bytes) {
  return (bytes + 3) / 4;
}

// Every bit of the source of unset variables.
Shadow shadow_of_source(Worker* worker, uint32_t origin) {
  static unsigned char* const bits = [] {
    static unsigned char ones[largest_value];
    std::memset(ones, 0xff, sizeof(ones));
    return ones;
  }();
  static uint32_t nobodys;
  uint32_t* left = worker ? &worker->source_origin : &nobodys;
  *left = origin;
  return {bits, left};
}

Shadow scratch(Worker* worker) {
  static PendingStore nobodys;
  PendingStore* store = worker ? &worker->pending : &nobodys;
  return {store->bits, &store->origin};
}

__attribute__((noinline)) Shadow shadow_of_load(
    Worker* worker, uintptr_t address, size_t bytes, uint64_t pc) {
  if (!AddressSpace::owns(address)) {
    const uint32_t origin = source_origin(address);
    if (origin != 0) return shadow_of_source(worker, origin);
    return {all_set, &origin_of_set};
  }
  const Region* region = check_access(worker, address, bytes, Access::load, pc);
  if (region == nullptr || region->space == Space::device) return {all_set, &origin_of_set};
  return AddressSpace::shadow(address);
}

__attribute__((noinline)) Shadow shadow_of_store(
    Worker* worker, uintptr_t address, size_t bytes, uint64_t pc) {
  if (worker) worker->settle_store();
  if (!AddressSpace::owns(address)) return scratch(worker);
  const Region* region = check_access(worker, address, bytes, Access::store, pc);
  if (region == nullptr) return scratch(worker);
  if (region->space == Space::threadgroup) return AddressSpace::shadow(address);
  worker->pending.address = address;
  worker->pending.bytes = std::min(bytes, PendingStore::largest);
  worker->pending.pc = pc;
  return scratch(worker);
}

inline Shadow shadow_of(const void* address, size_t bytes, Access access, uint64_t pc) {
  Worker* worker = current_worker();
  const uintptr_t value = reinterpret_cast<uintptr_t>(address);
  if (worker && worker->stacks.holds(value)) return worker->stacks.shadow(value);
  return access == Access::load ? shadow_of_load(worker, value, bytes, pc)
                                : shadow_of_store(worker, value, bytes, pc);
}

// Checks the access of a copy.
void check_copied(const void* address, size_t bytes, Access access, uint64_t pc) {
  const uintptr_t value = reinterpret_cast<uintptr_t>(address);
  if (AddressSpace::owns(value)) check_access(current_worker(), value, bytes, access, pc);
}

void copy_value(void* to, const void* from, size_t bytes, uint64_t pc) {
  check_copied(from, bytes, Access::load, pc);
  check_copied(to, bytes, Access::store, pc);
  Worker* worker = current_worker();
  if (worker == nullptr) return;
  copy_shadow(*worker, to, from, bytes);
  const uintptr_t target = reinterpret_cast<uintptr_t>(to);
  if (!AddressSpace::owns(target)) return;
  if (AddressSpace::instance()->find(target)->space != Space::device) return;
  const uint32_t origin = find_unset(*worker, from, bytes);
  if (origin != 0) report_unset_store(worker, target, bytes, pc, origin);
}

}  // namespace

uint32_t find_unset(const Worker& worker, const void* address, size_t bytes) {
  const Known known = look(worker, reinterpret_cast<uintptr_t>(address), bytes);
  return known.shadow.bits ? first_origin(known.shadow, bytes) : known.origin;
}

void copy_shadow(const Worker& worker, void* to, const void* from, size_t bytes) {
  const Known target = look(worker, reinterpret_cast<uintptr_t>(to), bytes);
  if (target.shadow.bits == nullptr) return;
  const Known source = look(worker, reinterpret_cast<uintptr_t>(from), bytes);
  if (source.shadow.bits != nullptr) {
    std::memmove(target.shadow.bits, source.shadow.bits, bytes);
    std::memmove(target.shadow.origin, source.shadow.origin, origin_words(bytes) * 4);
  } else if (source.origin != 0) {
    mark_unset(worker, to, bytes, source.origin);
  } else {
    std::memset(target.shadow.bits, 0, bytes);
  }
}

void take_shadow(const Worker& worker, SlotShadow* slot, const void* value, size_t bytes) {
  const Known known = look(worker, reinterpret_cast<uintptr_t>(value), bytes);
  if (known.shadow.bits == nullptr) {
    std::memset(slot->bits, known.origin ? 0xff : 0, bytes);
    slot->origin = known.origin;
    return;
  }
  std::memcpy(slot->bits, known.shadow.bits, bytes);
  slot->origin = first_origin(known.shadow, bytes);
}

void give_shadow(const Worker& worker, void* value, const SlotShadow& slot, size_t bytes) {
  const Known known = look(worker, reinterpret_cast<uintptr_t>(value), bytes);
  if (known.shadow.bits == nullptr) return;
  std::memcpy(known.shadow.bits, slot.bits, bytes);
  std::fill_n(known.shadow.origin, origin_words(bytes), slot.origin);
}

void mark_set(const Worker& worker, const void* address, size_t bytes) {
  const Known known = look(worker, reinterpret_cast<uintptr_t>(address), bytes);
  if (known.shadow.bits) std::memset(known.shadow.bits, 0, bytes);
}

void mark_unset(const Worker& worker, const void* address, size_t bytes, uint32_t origin) {
  const Known known = look(worker, reinterpret_cast<uintptr_t>(address), bytes);
  if (known.shadow.bits == nullptr) return;
  std::memset(known.shadow.bits, 0xff, bytes);
  std::fill_n(known.shadow.origin, origin_words(bytes), origin);
}

void Worker::settle_store() {
  if (pending.bytes == 0) return;
  const size_t bytes = pending.bytes;
  pending.bytes = 0;
  if (first_one(pending.bits, bytes) == bytes) return;
  std::memset(pending.bits, 0, bytes);
  report_unset_store(this, pending.address, bytes, pending.pc, pending.origin);
}

}  // namespace msl_rt

using msl_rt::Access;
using msl_rt::CallShadows;
using msl_rt::current_worker;
using msl_rt::Shadow;
using msl_rt::shadow_of;
using msl_rt::Worker;

#define CALLER_PC reinterpret_cast<uint64_t>(__builtin_return_address(0))

extern "C" {

#define DEFINE_SHADOW(size)                                                        \
  MSL_RT_EXPORT Shadow __msan_metadata_ptr_for_load_##size(const void* address) {  \
    return shadow_of(address, size, Access::load, CALLER_PC);                      \
  }                                                                                \
  MSL_RT_EXPORT Shadow __msan_metadata_ptr_for_store_##size(const void* address) { \
    return shadow_of(address, size, Access::store, CALLER_PC);                     \
  }
DEFINE_SHADOW(1)
DEFINE_SHADOW(2)
DEFINE_SHADOW(4)
DEFINE_SHADOW(8)
#undef DEFINE_SHADOW

MSL_RT_EXPORT Shadow __msan_metadata_ptr_for_load_n(const void* address, size_t bytes) {
  return shadow_of(address, bytes, Access::load, CALLER_PC);
}

MSL_RT_EXPORT Shadow __msan_metadata_ptr_for_store_n(const void* address, size_t bytes) {
  return shadow_of(address, bytes, Access::store, CALLER_PC);
}

MSL_RT_EXPORT CallShadows* __msan_get_context_state() {
  static CallShadows nobodys;
  Worker* worker = current_worker();
  return worker && worker->on_fiber() ? worker->call_shadows() : &nobodys;
}

MSL_RT_EXPORT void* __msan_memcpy(void* to, const void* from, size_t bytes) {
  msl_rt::copy_value(to, from, bytes, CALLER_PC);
  return std::memcpy(to, from, bytes);
}

MSL_RT_EXPORT void* __msan_memmove(void* to, const void* from, size_t bytes) {
  msl_rt::copy_value(to, from, bytes, CALLER_PC);
  return std::memmove(to, from, bytes);
}

MSL_RT_EXPORT void* __msan_memset(void* to, int value, size_t bytes) {
  msl_rt::check_copied(to, bytes, Access::store, CALLER_PC);
  if (Worker* worker = current_worker()) msl_rt::mark_set(*worker, to, bytes);
  return std::memset(to, value, bytes);
}

MSL_RT_EXPORT void __msan_unpoison_alloca(void* address, size_t bytes) {
  if (Worker* worker = current_worker()) msl_rt::mark_set(*worker, address, bytes);
}

MSL_RT_EXPORT void __msan_warning(uint32_t origin) {
  Worker* worker = current_worker();
  if (worker && worker->on_fiber()) {
    msl_rt::report_unset(worker, CALLER_PC, msl_rt::Place(), origin, "");
  }
}

}  // extern "C"
