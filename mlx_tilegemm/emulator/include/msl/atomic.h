// Atomics. Every order is executed as sequentially consistent.
#pragma once

#include "barrier.h"
#include "types.h"

namespace metal {

enum memory_order {
  memory_order_relaxed = 0,
  memory_order_acquire = 2,
  memory_order_release = 3,
  memory_order_acq_rel = 4,
  memory_order_seq_cst = 5,
};

enum thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device,
};

template <typename T>
struct atomic {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || _impl::same<T, bool>,
      "Metal has atomics of 32 and 64 bits and of bool");
  T value;
};

using atomic_bool = atomic<bool>;
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
using atomic_ulong = atomic<ulong>;

}  // namespace metal

#include "executor/atomic_access.h"

namespace metal {

namespace _impl {

template <class T>
MSL_INLINE void note_atomic(const volatile atomic<T>* object, msl_rt::AtomicAccess access) {
  msl_rt_atomic(&object->value, sizeof(T), access);
}

// Other threads see an operand at once, so it has to be set.
template <class T>
MSL_INLINE void note_operand(const T& operand) {
  check_set(operand, "operand of an atomic function", msl_rt::Site{});
}

// Replaces the value v by op(v, operand) and returns v.
template <class T, class Op>
MSL_RT_UNCHECKED T atomic_change(volatile atomic<T>* object, T operand, Op op) {
  T before = atomic_read(object);
  while (!atomic_swap_if(object, &before, static_cast<T>(op(before, operand)))) {
  }
  return before;
}

}  // namespace _impl

template <typename T>
MSL_INLINE T atomic_load_explicit(const volatile atomic<T>* object, memory_order) {
  _impl::note_atomic(object, msl_rt::AtomicAccess::load);
  return _impl::atomic_read(object);
}

template <typename T>
MSL_INLINE void atomic_store_explicit(
    volatile atomic<T>* object, _impl::identity_t<T> desired, memory_order) {
  _impl::note_atomic(object, msl_rt::AtomicAccess::store);
  _impl::note_operand(desired);
  _impl::atomic_write(object, desired);
}

template <typename T>
MSL_INLINE bool atomic_compare_exchange_weak_explicit(
    volatile atomic<T>* object, T* expected, _impl::identity_t<T> desired, memory_order,
    memory_order) {
  _impl::note_atomic(object, msl_rt::AtomicAccess::modify);
  _impl::note_operand(*expected);
  _impl::note_operand(desired);
  return _impl::atomic_swap_if(object, expected, desired);
}

#define MSL_ATOMIC(name, expression)                                          \
  template <typename T>                                                       \
  MSL_INLINE T name(                                                          \
      volatile atomic<T>* object, _impl::identity_t<T> operand, memory_order) {  \
    _impl::note_atomic(object, msl_rt::AtomicAccess::modify);                 \
    _impl::note_operand(operand);                                             \
    return _impl::atomic_change(                                              \
        object, operand, [](T a, T b) MSL_RT_UNCHECKED { return expression; });  \
  }
MSL_ATOMIC(atomic_exchange_explicit, ((void)a, b))
MSL_ATOMIC(atomic_fetch_and_explicit, a& b)
MSL_ATOMIC(atomic_fetch_or_explicit, a | b)
MSL_ATOMIC(atomic_fetch_xor_explicit, a ^ b)
MSL_ATOMIC(atomic_fetch_min_explicit, b < a ? b : a)
MSL_ATOMIC(atomic_fetch_max_explicit, a < b ? b : a)
MSL_ATOMIC(atomic_min_explicit, b < a ? b : a)
MSL_ATOMIC(atomic_max_explicit, a < b ? b : a)
#undef MSL_ATOMIC

namespace _impl {

// Atomic sums wrap round, unlike plain signed ones.
template <class T>
struct wrapping {
  using type = T;
};
template <>
struct wrapping<int> {
  using type = uint;
};

}  // namespace _impl

#define MSL_ATOMIC(name, op)                                                     \
  template <typename T>                                                          \
  MSL_INLINE T name(                                                             \
      volatile atomic<T>* object, _impl::identity_t<T> operand, memory_order) {  \
    using W = typename _impl::wrapping<T>::type;                                 \
    _impl::note_atomic(object, msl_rt::AtomicAccess::modify);                    \
    _impl::note_operand(operand);                                                \
    return _impl::atomic_change(object, operand, [](T a, T b) MSL_RT_UNCHECKED { \
      return static_cast<T>(static_cast<W>(a) op static_cast<W>(b));             \
    });                                                                          \
  }
MSL_ATOMIC(atomic_fetch_add_explicit, +)
MSL_ATOMIC(atomic_fetch_sub_explicit, -)
#undef MSL_ATOMIC

inline void atomic_thread_fence(
    mem_flags, memory_order = memory_order_seq_cst, thread_scope = thread_scope_device) {
  _impl::atomic_fence();
}

}  // namespace metal
