// What emulated kernels and the runtime library agree on. The runtime includes this file too, so it
// holds nothing of the Metal language; and kernels see it, so it includes no system header.
#pragma once

#include "../msl/thread.h"

#define MSL_RT_EXPORT __attribute__((visibility("default")))

// Calls that end alike stay apart, each with its own line.
#if defined(__clang__)
#define MSL_RT_SEPARATE __attribute__((nomerge))
#else
#define MSL_RT_SEPARATE
#endif

// For code of ours that is compiled into a kernel but is no access of the kernel's.
#if defined(__clang__)
// no_sanitize leaves the instrumentation of atomics in place.
#define MSL_RT_UNCHECKED \
  __attribute__((noinline, disable_sanitizer_instrumentation, no_sanitize("undefined")))
#else
#define MSL_RT_UNCHECKED \
  __attribute__((noinline, no_sanitize("thread"), no_sanitize("undefined")))
#endif

// For functions that only access bookkeeping of ours.
#if defined(MSL_RT_TRACKED)
#define MSL_RT_UNTRACKED __attribute__((no_sanitize("kernel-memory")))
#else
#define MSL_RT_UNTRACKED
#endif

// Elements of matrices are marked until they are set; a tracked kernel needs no marks.
#if defined(MSL_RT_CHECKED) && !defined(MSL_RT_TRACKED)
#define MSL_RT_MARKED
#endif

namespace msl_rt {

constexpr uint32_t max_threads = 1024;

using Entry = void (*)(void* const* arguments, const ThreadIds* ids);

// One parameter of a kernel, as its C++ type shows it.
enum ParameterFlags : uint32_t {
  parameter_pointer = 1,
  parameter_reference = 2,
  parameter_const = 4,
};

struct Parameter {
  uint32_t flags;
  uint32_t size;         // of one element
  uint32_t alignment;    // of one element
  uint32_t scalar_size;  // of the smallest part that two threads may use apart
};

using Describe = uint32_t (*)(Parameter* parameters);

// Of the elements that a matrix product is added to.
enum class ElementType : uint32_t { float32, float16, bfloat16 };

// Which lanes must take part in a collective.
enum class Collective : uint32_t {
  simd_function,        // the active lanes
  simdgroup_matrix,     // the whole simdgroup
  simdgroup_barrier,    // the whole simdgroup
  threadgroup_barrier,  // the whole threadgroup
};

constexpr size_t slot_bytes = 32;

// Which bits of a slot were never set, and a number that tells the variable.
struct SlotShadow {
  unsigned char bits[slot_bytes];
  uint32_t origin;
};
constexpr uint32_t inactive_lane = 2;  // instead of a variable

// Operands and results of the collectives of one simdgroup: a slot per lane. Lanes that wait at
// different places keep their operands apart from the results of those that meet.
struct alignas(64) Mailbox {
  unsigned char operands[simd_width][slot_bytes];
  unsigned char slots[simd_width][slot_bytes];  // operands of those that met, then results
  uint32_t lanes;                               // those that met
  // Of tracked kernels only.
  SlotShadow operand_shadows[simd_width];
  SlotShadow shadows[simd_width];
};

struct Pair {
  float x, y;
};

// Among the members of a value, what always is set; the driver's unset.py knows it by its name.
struct Bookkeeping {
  uint32_t number;
};

struct StorageType {
  size_t bytes;
  size_t alignment;
  uint32_t element_size;
  uint32_t scalar_size;
};

}  // namespace msl_rt

extern "C" {
// The box of the calling lane's simdgroup, and the lane's index.
MSL_RT_EXPORT msl_rt::Mailbox* msl_rt_mailbox(msl_rt::uint32_t* lane);

// Waits for the other lanes, once the operand is left. True for exactly one lane, the leader: it
// computes the results in the slots and calls msl_rt_release; the others return when that is done.
MSL_RT_EXPORT bool msl_rt_rendezvous(const char* file, msl_rt::int32_t line);
MSL_RT_EXPORT void msl_rt_release();

// target += a * b on 8x8 matrices of which the caller holds two elements each. The sum is due
// later: `target` must not be used before msl_rt_settle got the ticket that this returns.
MSL_RT_EXPORT msl_rt::uint32_t msl_rt_multiply_accumulate(
    void* target, msl_rt::ElementType type, msl_rt::Pair a, msl_rt::Pair b, const char* file,
    msl_rt::int32_t line);
MSL_RT_EXPORT void msl_rt_settle(msl_rt::uint32_t ticket);

MSL_RT_EXPORT void msl_rt_simdgroup_barrier(
    msl_rt::uint32_t flags, const char* file, msl_rt::int32_t line);
MSL_RT_EXPORT void msl_rt_threadgroup_barrier(
    msl_rt::uint32_t flags, const char* file, msl_rt::int32_t line);

MSL_RT_EXPORT msl_rt::uint32_t msl_rt_lane();

// Notes the operands of a matrix load or store, which all lanes of a simdgroup must give alike.
MSL_RT_EXPORT void msl_rt_uniform(
    msl_rt::uint64_t operands, bool stores, const char* file, msl_rt::int32_t line);

MSL_RT_EXPORT void* msl_rt_threadgroup_storage(
    msl_rt::uint32_t declaration, const msl_rt::StorageType* type, const char* name,
    const char* file, msl_rt::int32_t line);

// Tells the checks about an atomic access that follows, and lets a spinning thread give way.
MSL_RT_EXPORT void msl_rt_atomic(
    const volatile void* address, msl_rt::size_t bytes, msl_rt::AtomicAccess access);

// What tracked kernels know of a value, as it goes through a slot.
MSL_RT_EXPORT void msl_rt_take_shadow(
    msl_rt::SlotShadow* slot, const void* value, msl_rt::size_t bytes);
MSL_RT_EXPORT void msl_rt_give_shadow(
    void* value, const msl_rt::SlotShadow* slot, msl_rt::size_t bytes);

// Makes a result count as never set in a tracked kernel, if an operand is not.
MSL_RT_EXPORT void msl_rt_derive(
    void* result, msl_rt::size_t result_bytes, const void* operand, msl_rt::size_t operand_bytes);

// Gives back the bits of a number, all of which count as never set in a tracked kernel if any does.
MSL_RT_EXPORT __attribute__((const)) msl_rt::uint32_t msl_rt_spread(msl_rt::uint32_t bits);

// The same for the bits of a float, rounded to those of a bfloat.
MSL_RT_EXPORT __attribute__((const)) msl_rt::uint16_t msl_rt_round_to_bfloat(
    msl_rt::uint32_t bits);

// Reports that a value which decides something was never set, in a tracked kernel.
MSL_RT_EXPORT void msl_rt_check_set(
    const void* value, msl_rt::size_t bytes, const char* what, const char* file,
    msl_rt::int32_t line);

// Reports the use of a value that nothing was ever written to.
MSL_RT_EXPORT void msl_rt_uninitialized(
    const char* what, const char* file, msl_rt::int32_t line);

// Reports an index outside a vector or an array, and abandons the launch.
MSL_RT_EXPORT MSL_RT_SEPARATE __attribute__((cold)) void msl_rt_outside(long long index);
}

namespace msl_rt {

template <typename T>
inline constexpr bool is_scalar = false;
template <>
inline constexpr bool is_scalar<bool> = true;
template <>
inline constexpr bool is_scalar<char> = true;
template <>
inline constexpr bool is_scalar<signed char> = true;
template <>
inline constexpr bool is_scalar<unsigned char> = true;
template <>
inline constexpr bool is_scalar<short> = true;
template <>
inline constexpr bool is_scalar<unsigned short> = true;
template <>
inline constexpr bool is_scalar<int> = true;
template <>
inline constexpr bool is_scalar<unsigned int> = true;
template <>
inline constexpr bool is_scalar<long> = true;
template <>
inline constexpr bool is_scalar<unsigned long> = true;
template <>
inline constexpr bool is_scalar<long long> = true;
template <>
inline constexpr bool is_scalar<unsigned long long> = true;
template <>
inline constexpr bool is_scalar<_Float16> = true;
template <>
inline constexpr bool is_scalar<float> = true;

// Bytes of the smallest part of a T that two threads may use apart. 1 suits any type.
template <typename T>
inline constexpr uint32_t scalar_size = is_scalar<T> ? sizeof(T) : 1;
template <typename T>
inline constexpr uint32_t scalar_size<const T> = scalar_size<T>;
template <typename T>
inline constexpr uint32_t scalar_size<volatile T> = scalar_size<T>;
template <typename T>
inline constexpr uint32_t scalar_size<const volatile T> = scalar_size<T>;
template <typename T, size_t N>
inline constexpr uint32_t scalar_size<T[N]> = scalar_size<T>;
template <typename T, size_t N>
inline constexpr uint32_t scalar_size<const T[N]> = scalar_size<T>;

template <typename T>
inline constexpr uint32_t element_size = sizeof(T);
template <typename T, size_t N>
inline constexpr uint32_t element_size<T[N]> = element_size<T>;

#if defined(MSL_RT_CHECKED)
// The index, once it is known to be one of `Count` elements; 0 is for what is no array.
template <size_t Count, typename Index>
__attribute__((always_inline)) inline constexpr Index within(Index index) {
  if constexpr (Count != 0) {
    if (__builtin_expect(static_cast<size_t>(index) >= Count, 0)) {
      msl_rt_outside(static_cast<long long>(index));
      // It does not come back, and so the compilers' own check of the same index is none.
      __builtin_trap();
    }
  }
  return index;
}

// Declared to be asked for their types, which say how many elements an array has.
template <size_t Count>
struct Elements {
  static constexpr size_t value = Count;
};
template <typename T, size_t N>
Elements<N> elements_of(T (&)[N]);
template <typename T, size_t N>
Elements<N> elements_of(T (&&)[N]);
Elements<0> elements_of(...);
#endif

template <typename T, size_t Alignment>
T& threadgroup_storage(uint32_t declaration, const char* name, Site site) {
  constexpr size_t alignment = Alignment > alignof(T) ? Alignment : alignof(T);
  static constexpr StorageType type = {
      sizeof(T), alignment, element_size<T>, scalar_size<T>};
  return *static_cast<T*>(
      msl_rt_threadgroup_storage(declaration, &type, name, site.file, site.line));
}

}  // namespace msl_rt

// What the rewriter makes of a declaration of threadgroup memory.
#define MSL_RT_THREADGROUP(type, name, number, alignment)                                 \
  type& name = ::msl_rt::threadgroup_storage<type, alignment>(                            \
      number, #name, ::msl_rt::Site::here());

// Kernels stand in the global namespace.
#define MSL_TEXT_BEGIN
#define MSL_TEXT_END

// MSL_WITHIN checks an index, and msl_rt_element is what the rewriter makes of a subscript: an
// element passed on by reference may, for the compilers' own check, lie one past the end.
#if defined(MSL_RT_CHECKED)
#define MSL_WITHIN(count, index) msl_rt::within<count>(index)
#define msl_rt_element(array, ...) \
  ((array)[MSL_WITHIN(decltype(msl_rt::elements_of(array))::value, (__VA_ARGS__))])
#else
#define MSL_WITHIN(count, index) index
#define msl_rt_element(array, ...) ((array)[__VA_ARGS__])
#endif
