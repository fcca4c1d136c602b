// <metal_atomic>: 32-bit integers, float addition in device memory, and bool.
#pragma once

#include "simd.h"

namespace metal {

enum memory_order { memory_order_relaxed };
enum thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device
};

template <typename T>
struct atomic {
  static_assert(strict::same<T, int>::value || strict::same<T, uint>::value ||
                    strict::same<T, float>::value || strict::same<T, bool>::value,
                "atomic holds int, uint, float or bool");
  atomic() = default;
  atomic(const atomic&) = delete;
  atomic& operator=(const atomic&) = delete;

 private:
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

template <typename T>
struct is_atomic_integer {
  static constant constexpr const bool value =
      strict::same<T, int>::value || strict::same<T, uint>::value;
};

#define STRICT_ATOMIC(SPACE)                                                          \
  template <typename T>                                                               \
  void atomic_store_explicit(volatile SPACE atomic<T>*, T, memory_order);             \
  template <typename T>                                                               \
  T atomic_load_explicit(const volatile SPACE atomic<T>*, memory_order);              \
  template <typename T>                                                               \
  T atomic_exchange_explicit(volatile SPACE atomic<T>*, T, memory_order);             \
  template <typename T>                                                               \
  bool atomic_compare_exchange_weak_explicit(volatile SPACE atomic<T>*, thread T*, T, \
                                             memory_order, memory_order);             \
  STRICT_FETCH(SPACE, and)                                                            \
  STRICT_FETCH(SPACE, or)                                                             \
  STRICT_FETCH(SPACE, xor)                                                            \
  STRICT_FETCH(SPACE, min)                                                            \
  STRICT_FETCH(SPACE, max)                                                            \
  STRICT_FETCH(SPACE, add)                                                            \
  STRICT_FETCH(SPACE, sub)
#define STRICT_FETCH(SPACE, NAME)                             \
  template <typename T, STRICT_IF(is_atomic_integer<T>::value)> \
  T atomic_fetch_##NAME##_explicit(volatile SPACE atomic<T>*, T, memory_order);
STRICT_ATOMIC(device)
STRICT_ATOMIC(threadgroup)
#undef STRICT_ATOMIC
#undef STRICT_FETCH
float atomic_fetch_add_explicit(volatile device atomic<float>*, float, memory_order);
float atomic_fetch_sub_explicit(volatile device atomic<float>*, float, memory_order);

}  // namespace metal
