// <metal_relational>.
#pragma once

#include "math.h"

namespace metal {

#define MSL_RELATIONAL(T, Bits, sign_mask, infinity, smallest)                                   \
  MSL_INLINE constexpr bool isnan(T x) {                                                         \
    return (_impl::bits_of<Bits>(x) & (sign_mask - 1)) > infinity;                           \
  }                                                                                              \
  MSL_INLINE constexpr bool isinf(T x) {                                                         \
    return (_impl::bits_of<Bits>(x) & (sign_mask - 1)) == infinity;                          \
  }                                                                                              \
  MSL_INLINE constexpr bool isfinite(T x) {                                                      \
    return (_impl::bits_of<Bits>(x) & (sign_mask - 1)) < infinity;                           \
  }                                                                                              \
  MSL_INLINE constexpr bool isnormal(T x) {                                                      \
    return isfinite(x) && (_impl::bits_of<Bits>(x) & (sign_mask - 1)) >= smallest;           \
  }                                                                                              \
  MSL_INLINE constexpr bool signbit(T x) {                                                       \
    return (_impl::bits_of<Bits>(x) & sign_mask) != 0;                                       \
  }                                                                                              \
  MSL_INLINE constexpr bool isordered(T x, T y) { return !isnan(x) && !isnan(y); }               \
  MSL_INLINE constexpr bool isunordered(T x, T y) { return isnan(x) || isnan(y); }
MSL_RELATIONAL(float, uint32_t, 0x80000000u, 0x7f800000u, 0x00800000u)
MSL_RELATIONAL(half, uint16_t, 0x8000, 0x7c00, 0x0400)
#undef MSL_RELATIONAL

#define MSL_TEST1(name)                                                                \
  template <class A, class V = _impl::real_t<A>>                                       \
  MSL_INLINE constexpr _impl::with_element_t<V, bool> name(const A& a) {               \
    using R = _impl::with_element_t<V, bool>;                                          \
    return _impl::map<R>([](auto x) { return name(x); }, V(a));                        \
  }
#define MSL_TEST2(name)                                                                \
  template <class A, class B, class V = _impl::real_t<A, B>>                           \
  MSL_INLINE constexpr _impl::with_element_t<V, bool> name(const A& a, const B& b) {   \
    using R = _impl::with_element_t<V, bool>;                                          \
    return _impl::map<R>([](auto x, auto y) { return name(x, y); }, V(a), V(b));       \
  }
MSL_TEST1(isnan)
MSL_TEST1(isinf)
MSL_TEST1(isfinite)
MSL_TEST1(isnormal)
MSL_TEST1(signbit)
MSL_TEST2(isordered)
MSL_TEST2(isunordered)
#undef MSL_TEST1
#undef MSL_TEST2

MSL_INLINE constexpr bool all(bool x) { return x; }
MSL_INLINE constexpr bool all(bool2 v) { return v.x && v.y; }
MSL_INLINE constexpr bool all(bool3 v) { return v.x && v.y && v.z; }
MSL_INLINE constexpr bool all(bool4 v) { return v.x && v.y && v.z && v.w; }
MSL_INLINE constexpr bool any(bool x) { return x; }
MSL_INLINE constexpr bool any(bool2 v) { return v.x || v.y; }
MSL_INLINE constexpr bool any(bool3 v) { return v.x || v.y || v.z; }
MSL_INLINE constexpr bool any(bool4 v) { return v.x || v.y || v.z || v.w; }

#define MSL_SELECT(T) \
  MSL_INLINE constexpr T select(T a, T b, bool c) { return c ? b : a; }
MSL_EACH_INT(MSL_SELECT)
MSL_SELECT(bool)
MSL_SELECT(half)
MSL_SELECT(bfloat)
MSL_SELECT(float)
#undef MSL_SELECT

template <class A, class B, class C, class V = _impl::any_t<A, B>,
          class M = _impl::with_element_t<V, bool>>
MSL_INLINE constexpr V select(const A& a, const B& b, const C& c) {
  const M mask = c;
  return _impl::map<V>([](auto x, auto y, bool z) { return z ? y : x; }, V(a), V(b), mask);
}

}  // namespace metal
