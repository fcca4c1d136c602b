// What the emulator writes in place of extensions of C++ that Metal's compiler has.
#pragma once

#include "types.h"

namespace msl_rt {

// `T a[N] = {[0 ... N - 1] = value};`
template <typename T, typename V>
MSL_INLINE constexpr void fill(T& element, const V& value) {
  element = value;
}
template <typename T, size_t N, typename V>
MSL_INLINE constexpr void fill(T (&array)[N], const V& value) {
  for (T& element : array) fill(element, value);
}

template <typename T>
struct bare : metal::_impl::identity<T> {};
template <typename T>
struct bare<const T> : bare<T> {};
template <typename T>
struct bare<T&> : bare<T> {};
template <typename T>
struct bare<T&&> : bare<T> {};

template <typename T>
inline constexpr bool is_pointer = false;
template <typename T>
inline constexpr bool is_pointer<T*> = true;

// The integer in `c ? x : 0`, where a class and an integer would each convert to the other.
template <typename Other, typename Integer>
MSL_INLINE constexpr auto joined(Integer value) {
  using T = typename bare<Other>::type;
  if constexpr (metal::_impl::same<T, metal::bfloat>) {
    return metal::bfloat(value);
  } else if constexpr (is_pointer<T>) {
    return nullptr;
  } else {
    return value;
  }
}

}  // namespace msl_rt
