// The functions that the compiler's own instrumentation (-fsanitize=thread, -fsanitize=undefined)
// calls. No sanitizer library is linked: these are all there is.
#include <cstdio>
#include <cstring>

#include "shadow.h"

using msl_rt::Access;
using msl_rt::current_worker;
using msl_rt::Finding;
using msl_rt::Kind;
using msl_rt::Place;
using msl_rt::Worker;

#define CALLER_PC reinterpret_cast<uint64_t>(__builtin_return_address(0))

namespace {

inline void check(const void* address, size_t bytes, Access access, uint64_t pc) {
  const uintptr_t value = reinterpret_cast<uintptr_t>(address);
  if (!msl_rt::AddressSpace::owns(value)) return;
  msl_rt::check_access(current_worker(), value, bytes, access, pc);
}

// For accesses that the compiler took to be aligned.
inline void check_aligned(const void* address, size_t bytes, Access access, uint64_t pc) {
  const uintptr_t value = reinterpret_cast<uintptr_t>(address);
  if (!msl_rt::AddressSpace::owns(value)) return;
  if (value & (bytes - 1)) msl_rt::report_misaligned(current_worker(), value, bytes, pc);
  msl_rt::check_access(current_worker(), value, bytes, access, pc);
}

}  // namespace

extern "C" {

#define DEFINE_ACCESS(bytes)                                              \
  MSL_RT_EXPORT void __tsan_read##bytes(const void* address) {            \
    check_aligned(address, bytes, Access::load, CALLER_PC);               \
  }                                                                       \
  MSL_RT_EXPORT void __tsan_write##bytes(const void* address) {           \
    check_aligned(address, bytes, Access::store, CALLER_PC);              \
  }                                                                       \
  MSL_RT_EXPORT void __tsan_unaligned_read##bytes(const void* address) {  \
    check(address, bytes, Access::load, CALLER_PC);                       \
  }                                                                       \
  MSL_RT_EXPORT void __tsan_unaligned_write##bytes(const void* address) { \
    check(address, bytes, Access::store, CALLER_PC);                      \
  }                                                                       \
  MSL_RT_EXPORT void __tsan_volatile_read##bytes(const void* address) {   \
    check_aligned(address, bytes, Access::load, CALLER_PC);               \
  }                                                                       \
  MSL_RT_EXPORT void __tsan_volatile_write##bytes(const void* address) {  \
    check_aligned(address, bytes, Access::store, CALLER_PC);              \
  }

DEFINE_ACCESS(1)
DEFINE_ACCESS(2)
DEFINE_ACCESS(4)
DEFINE_ACCESS(8)
DEFINE_ACCESS(16)
#undef DEFINE_ACCESS

MSL_RT_EXPORT void __tsan_read_range(const void* address, size_t bytes) {
  check(address, bytes, Access::load, CALLER_PC);
}

MSL_RT_EXPORT void __tsan_write_range(const void* address, size_t bytes) {
  check(address, bytes, Access::store, CALLER_PC);
}

MSL_RT_EXPORT void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  check(from, bytes, Access::load, CALLER_PC);
  check(to, bytes, Access::store, CALLER_PC);
  return std::memcpy(to, from, bytes);
}

MSL_RT_EXPORT void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  check(from, bytes, Access::load, CALLER_PC);
  check(to, bytes, Access::store, CALLER_PC);
  return std::memmove(to, from, bytes);
}

MSL_RT_EXPORT void* __tsan_memset(void* to, int value, size_t bytes) {
  check(to, bytes, Access::store, CALLER_PC);
  return std::memset(to, value, bytes);
}

MSL_RT_EXPORT void __tsan_init() {}
MSL_RT_EXPORT void __tsan_func_entry(void*) {}
MSL_RT_EXPORT void __tsan_func_exit() {}
MSL_RT_EXPORT void __tsan_vptr_update(void*, void*) {}
MSL_RT_EXPORT void __tsan_vptr_read(void*) {}

MSL_RT_EXPORT void msl_rt_atomic(
    const volatile void* address, size_t bytes, msl_rt::AtomicAccess access) {
  Worker* worker = current_worker();
  ++worker->counters.atomics;
  if (worker->strict) {
    const Access kinds[] = {Access::atomic_load, Access::atomic_store, Access::atomic_modify};
    check(
        const_cast<const void*>(address), bytes, kinds[static_cast<uint32_t>(access)], CALLER_PC);
  }
  if (access != msl_rt::AtomicAccess::store && ++worker->spins % 64 == 0) worker->give_way();
}

}  // extern "C"

namespace {

struct SourceLocation {
  const char* file;
  uint32_t line;
  uint32_t column;
};

struct TypeMismatch {
  SourceLocation location;
  const void* type;
  unsigned char log_alignment;
};

// The location is the first member of the data of every handler used here.
const SourceLocation& location_of(const void* data) {
  return *static_cast<const SourceLocation*>(data);
}

void report_undefined(const SourceLocation& location, uint64_t pc, Kind kind, const char* what) {
  Worker* worker = current_worker();
  if (worker == nullptr || !worker->on_fiber()) return;
  const Place place = {location.file, static_cast<int32_t>(location.line)};
  Finding* finding = worker->report(kind, pc, place);
  if (finding != nullptr) std::snprintf(finding->text, sizeof(finding->text), "%s", what);
}

// For what the compiler continues with a trap or a wild access.
void report_and_abandon(
    const SourceLocation& location, uint64_t pc, Kind kind, const char* what) {
  report_undefined(location, pc, kind, what);
  Worker* worker = current_worker();
  if (worker != nullptr && worker->on_fiber()) worker->abandon();
}

void report_alignment(
    const SourceLocation& location, uint64_t pc, uintptr_t address, uintptr_t alignment) {
  if (msl_rt::AddressSpace::owns(address)) {
    msl_rt::report_misaligned(current_worker(), address, alignment, pc);
  } else {
    report_undefined(
        location, pc, Kind::misaligned, "the address is no multiple of the type's alignment");
  }
}

void report_outside(const SourceLocation& location, uint64_t pc, long long index) {
  char text[64];
  std::snprintf(text, sizeof(text), "index %lld is outside the array", index);
  report_and_abandon(location, pc, Kind::out_of_bounds, text);
}

}  // namespace

extern "C" {

#define DEFINE_REPORT(name, arguments, what)                                \
  MSL_RT_EXPORT void __ubsan_handle_##name arguments {                      \
    report_undefined(location_of(data), CALLER_PC, Kind::undefined_behavior, what);      \
  }

DEFINE_REPORT(add_overflow, (void* data, uintptr_t, uintptr_t), "signed integer overflow in +")
DEFINE_REPORT(sub_overflow, (void* data, uintptr_t, uintptr_t), "signed integer overflow in -")
DEFINE_REPORT(mul_overflow, (void* data, uintptr_t, uintptr_t), "signed integer overflow in *")
DEFINE_REPORT(negate_overflow, (void* data, uintptr_t), "signed integer overflow in negation")
DEFINE_REPORT(
    shift_out_of_bounds, (void* data, uintptr_t, uintptr_t),
    "shift by a negative amount, by at least the width, or out of a signed value")
DEFINE_REPORT(
    float_cast_overflow, (void* data, uintptr_t), "floating-point value does not fit the integer")
DEFINE_REPORT(load_invalid_value, (void* data, uintptr_t), "value that its type cannot hold")
DEFINE_REPORT(pointer_overflow, (void* data, uintptr_t, uintptr_t), "pointer arithmetic overflow")
#undef DEFINE_REPORT

MSL_RT_EXPORT void __ubsan_handle_divrem_overflow(void* data, uintptr_t, uintptr_t) {
  report_and_abandon(
      location_of(data), CALLER_PC, Kind::undefined_behavior,
      "integer division by zero or overflow in it");
}

MSL_RT_EXPORT void __ubsan_handle_out_of_bounds(void* data, uintptr_t index) {
  report_outside(location_of(data), CALLER_PC, static_cast<int32_t>(index));
}

MSL_RT_EXPORT void msl_rt_outside(long long index) {
  report_outside(SourceLocation(), CALLER_PC, index);
}

MSL_RT_EXPORT void __ubsan_handle_builtin_unreachable(void* data) {
  report_and_abandon(
      location_of(data), CALLER_PC, Kind::undefined_behavior,
      "unreachable code was reached");
}

MSL_RT_EXPORT void __ubsan_handle_missing_return(void* data) {
  report_and_abandon(
      location_of(data), CALLER_PC, Kind::undefined_behavior,
      "a function ended without returning a value");
}

// Only the check of alignments is on. It sees vectors whole that the optimiser splits afterwards.
MSL_RT_EXPORT void __ubsan_handle_type_mismatch_v1(void* data, uintptr_t pointer) {
  const uintptr_t alignment = uintptr_t(1) << static_cast<const TypeMismatch*>(data)->log_alignment;
  report_alignment(location_of(data), CALLER_PC, pointer, alignment);
}

// Copies of vectors are no accesses to -fsanitize=alignment; see the driver's unset.py.
MSL_RT_EXPORT void msl_rt_misaligned(const void* address, uintptr_t mask) {
  const uintptr_t value = reinterpret_cast<uintptr_t>(address);
  report_alignment(SourceLocation(), CALLER_PC, value, mask + 1);
}

}  // extern "C"
