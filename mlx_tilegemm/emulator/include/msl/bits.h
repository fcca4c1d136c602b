// as_type: the same bits as another type.
#pragma once

#include "types.h"

namespace metal {

template <class To, class From>
MSL_INLINE constexpr To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs two types of one size");
  if constexpr (_impl::same<From, float>) {
    return __builtin_bit_cast(To, _impl::bits_of<uint32_t>(value));
  } else if constexpr (_impl::same<From, half>) {
    return __builtin_bit_cast(To, _impl::bits_of<uint16_t>(value));
  } else {
    return __builtin_bit_cast(To, value);
  }
}
template <class To, _impl::swizzle_kind K, class T, class V, int Span, int... I>
MSL_INLINE constexpr To as_type(const _impl::swizzle<K, T, V, Span, I...>& value) {
  return as_type<To>(V(value));
}

}  // namespace metal

using metal::as_type;
