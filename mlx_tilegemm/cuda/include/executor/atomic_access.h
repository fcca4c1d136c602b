// Accesses to atomics. Included by msl/atomic.h.
#pragma once

#include "executor/runtime.h"

namespace metal {

namespace _impl {

template <class T>
using atomic_word = typename pick<sizeof(T) == 8, unsigned long long, unsigned int>::type;

template <class T>
MSL_INLINE atomic_word<T>* word_of(const volatile atomic<T>* object) {
  static_assert(sizeof(T) >= 4, "CUDA has no atomics of one byte");
  return reinterpret_cast<atomic_word<T>*>(const_cast<T*>(&object->value));
}

template <class T>
MSL_INLINE T atomic_read(const volatile atomic<T>* object) {
  const volatile atomic_word<T>* word = word_of(object);
  return __builtin_bit_cast(T, atomic_word<T>(*word));
}

template <class T>
MSL_INLINE void atomic_write(volatile atomic<T>* object, T value) {
  atomicExch(word_of(object), __builtin_bit_cast(atomic_word<T>, value));
}

template <class T>
MSL_INLINE bool atomic_swap_if(volatile atomic<T>* object, T* expected, T desired) {
  const auto wanted = __builtin_bit_cast(atomic_word<T>, *expected);
  const auto found =
      atomicCAS(word_of(object), wanted, __builtin_bit_cast(atomic_word<T>, desired));
  *expected = __builtin_bit_cast(T, found);
  return found == wanted;
}

MSL_INLINE void atomic_fence() { __threadfence(); }

}  // namespace _impl

}  // namespace metal
