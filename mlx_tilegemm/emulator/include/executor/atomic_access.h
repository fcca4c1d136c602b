// Accesses to atomics, by the compiler's own. Included by msl/atomic.h.
#pragma once

#include "runtime.h"

namespace metal {

namespace _impl {

template <class T>
MSL_RT_UNCHECKED T atomic_read(const volatile atomic<T>* object) {
  T value;
  __atomic_load(const_cast<const T*>(&object->value), &value, __ATOMIC_SEQ_CST);
  return value;
}

template <class T>
MSL_RT_UNCHECKED void atomic_write(volatile atomic<T>* object, T value) {
  __atomic_store(const_cast<T*>(&object->value), &value, __ATOMIC_SEQ_CST);
}

template <class T>
MSL_RT_UNCHECKED bool atomic_swap_if(volatile atomic<T>* object, T* expected, T desired) {
  return __atomic_compare_exchange(
      const_cast<T*>(&object->value), expected, &desired, false, __ATOMIC_SEQ_CST,
      __ATOMIC_SEQ_CST);
}

MSL_INLINE void atomic_fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

}  // namespace _impl

}  // namespace metal

namespace msl_rt {

template <typename T>
inline constexpr uint32_t scalar_size<metal::atomic<T>> = sizeof(T);

}  // namespace msl_rt
