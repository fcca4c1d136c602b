// <metal_integer>. Where Metal has one overload per type, so has this, so that a call which is
// ambiguous there (min(int, uint)) is ambiguous here; the others demand equal types.
#pragma once

#include "lift.h"
#include "traits.h"

namespace metal {

namespace _impl {

template <class T>
MSL_INLINE constexpr T magnitude(T x) {
  if constexpr (is_signed_v<T>) {
    return x < 0 ? static_cast<T>(0 - make_unsigned_t<T>(x)) : x;
  } else {
    return x;
  }
}

}  // namespace _impl

#define MSL_INT_OVERLOADS(T)                                                            \
  MSL_INLINE constexpr T abs(T x) { return _impl::magnitude(x); }                       \
  MSL_INLINE constexpr T min(T x, T y) { return y < x ? y : x; }                        \
  MSL_INLINE constexpr T max(T x, T y) { return x < y ? y : x; }                        \
  MSL_INLINE constexpr T min3(T x, T y, T z) { return min(x, min(y, z)); }              \
  MSL_INLINE constexpr T max3(T x, T y, T z) { return max(x, max(y, z)); }              \
  MSL_INLINE constexpr T median3(T x, T y, T z) {                                       \
    return max(min(x, y), min(max(x, y), z));                                           \
  }                                                                                     \
  MSL_INLINE constexpr T clamp(T x, T low, T high) { return min(max(x, low), high); }
MSL_EACH_INT(MSL_INT_OVERLOADS)
#undef MSL_INT_OVERLOADS

namespace _impl {

template <class T>
using only_int_t = when_kind_t<T, 2, 3>;
template <class T>
inline constexpr int bits_in = int(sizeof(T)) * 8;
// Arithmetic that must not overflow: 128 bits hold any product of two 64-bit integers.
template <class T>
using wide_t = typename pick<is_signed_v<T>, __int128, unsigned __int128>::type;

template <class T>
MSL_INLINE constexpr T saturate_int(__int128 x) {
  constexpr __int128 low = numeric_limits<T>::min();
  constexpr __int128 high = numeric_limits<T>::max();
  return static_cast<T>(x < low ? low : x > high ? high : x);
}

}  // namespace _impl

template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T clz(T x) {
  const auto u = static_cast<unsigned long long>(make_unsigned_t<T>(x));
  return static_cast<T>(u == 0 ? _impl::bits_in<T> : __builtin_clzll(u) - 64 + _impl::bits_in<T>);
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T ctz(T x) {
  const auto u = static_cast<unsigned long long>(make_unsigned_t<T>(x));
  return static_cast<T>(u == 0 ? _impl::bits_in<T> : __builtin_ctzll(u));
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T popcount(T x) {
  return static_cast<T>(__builtin_popcountll(make_unsigned_t<T>(x)));
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T reverse_bits(T x) {
  make_unsigned_t<T> from = x, to = 0;
  for (int i = 0; i < _impl::bits_in<T>; ++i) {
    to = static_cast<make_unsigned_t<T>>((to << 1) | ((from >> i) & 1));
  }
  return static_cast<T>(to);
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr make_unsigned_t<T> absdiff(T x, T y) {
  using U = make_unsigned_t<T>;
  return static_cast<U>(x < y ? U(y) - U(x) : U(x) - U(y));
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T addsat(T x, T y) {
  return _impl::saturate_int<T>(__int128(x) + y);
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T subsat(T x, T y) {
  return _impl::saturate_int<T>(__int128(x) - y);
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T hadd(T x, T y) {
  return static_cast<T>((__int128(x) + y) >> 1);
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T rhadd(T x, T y) {
  return static_cast<T>((__int128(x) + y + 1) >> 1);
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T mulhi(T x, T y) {
  const T high = static_cast<T>((_impl::wide_t<T>(x) * y) >> _impl::bits_in<T>);
  // Carries into the upper half are not followed.
  return __builtin_is_constant_evaluated() ? high : _impl::derived(high, x, y);
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T madhi(T x, T y, T z) {
  using U = make_unsigned_t<T>;
  return static_cast<T>(static_cast<U>(U(mulhi(x, y)) + U(z)));
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T madsat(T x, T y, T z) {
  using W = _impl::wide_t<T>;
  if constexpr (sizeof(T) < 8) {
    return _impl::saturate_int<T>(__int128(x) * y + z);
  } else {
    // Only the sum of a 128-bit product can pass the 128 bits, and only beyond either limit.
    const W product = W(x) * y;
    const W low = numeric_limits<T>::min(), high = numeric_limits<T>::max();
    if (product > high + (high - W(z))) {
      return numeric_limits<T>::max();
    }
    const W sum = product + z;
    return static_cast<T>(sum < low ? low : sum > high ? high : sum);
  }
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T rotate(T x, T count) {
  using U = make_unsigned_t<T>;
  const int n = int(U(count) % _impl::bits_in<T>);
  const U u = U(x);
  return n == 0 ? x : static_cast<T>(static_cast<U>((u << n) | (u >> (_impl::bits_in<T> - n))));
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T extract_bits(T x, uint offset, uint bits) {
  if (bits == 0) {
    return T(0);
  }
  using U = make_unsigned_t<T>;
  const int spare = _impl::bits_in<T> - int(bits);
  return static_cast<T>(static_cast<T>(static_cast<U>(U(x) << (spare - int(offset)))) >> spare);
}
template <class T, class = _impl::only_int_t<T>>
MSL_INLINE constexpr T insert_bits(T base, T insert, uint offset, uint bits) {
  if (bits == 0) {
    return base;
  }
  using U = make_unsigned_t<T>;
  const U mask = static_cast<U>(static_cast<U>(~U(0)) >> (_impl::bits_in<T> - int(bits)));
  return static_cast<T>((U(base) & ~U(mask << offset)) | U((U(insert) & mask) << offset));
}
template <class T, class = _impl::when_t<_impl::same<T, int> || _impl::same<T, uint>>>
MSL_INLINE constexpr T mul24(T x, T y) {
  return static_cast<T>(uint(extract_bits(x, 0, 24)) * uint(extract_bits(y, 0, 24)));
}
template <class T, class = _impl::when_t<_impl::same<T, int> || _impl::same<T, uint>>>
MSL_INLINE constexpr T mad24(T x, T y, T z) {
  return static_cast<T>(uint(mul24(x, y)) + uint(z));
}

MSL_LIFT1(clz, int_t)
MSL_LIFT1(ctz, int_t)
MSL_LIFT1(popcount, int_t)
MSL_LIFT1(reverse_bits, int_t)
MSL_LIFT2(addsat, int_t)
MSL_LIFT2(subsat, int_t)
MSL_LIFT2(hadd, int_t)
MSL_LIFT2(rhadd, int_t)
MSL_LIFT2(mulhi, int_t)
MSL_LIFT2(mul24, int_t)
MSL_LIFT2(rotate, int_t)
MSL_LIFT3(madhi, int_t)
MSL_LIFT3(madsat, int_t)
MSL_LIFT3(mad24, int_t)

template <class A, class B, class V = _impl::int_t<A, B>>
MSL_INLINE constexpr auto absdiff(const A& a, const B& b) {
  using R = _impl::with_element_t<V, make_unsigned_t<typename _impl::vec_traits<V>::element>>;
  return _impl::map<R>([](auto x, auto y) { return absdiff(x, y); }, V(a), V(b));
}
template <class A, class V = _impl::int_t<A>>
MSL_INLINE constexpr V extract_bits(const A& a, uint offset, uint bits) {
  return _impl::map<V>([=](auto x) { return extract_bits(x, offset, bits); }, V(a));
}
template <class A, class B, class V = _impl::int_t<A, B>>
MSL_INLINE constexpr V insert_bits(const A& a, const B& b, uint offset, uint bits) {
  return _impl::map<V>([=](auto x, auto y) { return insert_bits(x, y, offset, bits); }, V(a),
                       V(b));
}

}  // namespace metal
