// Scalar, vector and packed vector types of the Metal Shading Language.
//
// Nothing here includes a system header: the C library's global functions (abs, exp, index, ...)
// would make a kernel's unqualified calls ambiguous.
#pragma once

#ifndef __METAL_VERSION__
#define __METAL_VERSION__ 310
#endif
#define __METAL__ 1
#define __HAVE_BFLOAT__ 1

#include "executor/runtime.h"

#define MSL_INLINE inline __attribute__((always_inline))

static_assert(char(-1) < 0, "Metal's char is signed: compile with -fsigned-char");
static_assert(sizeof(long) == 8 && sizeof(void*) == 8, "Metal needs a 64-bit host");

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef __INT8_TYPE__ int8_t;
typedef __INT16_TYPE__ int16_t;
typedef __INT32_TYPE__ int32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
typedef __INTPTR_TYPE__ intptr_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef __SIZE_TYPE__ size_t;

#include "executor/half.h"

namespace metal {

namespace _impl {

template <bool, class T = void>
struct when {};
template <class T>
struct when<true, T> {
  using type = T;
};
template <bool B, class T = void>
using when_t = typename when<B, T>::type;

template <class A, class B>
inline constexpr bool same = false;
template <class A>
inline constexpr bool same<A, A> = true;

template <class T>
struct identity {
  using type = T;
};
template <class T>
using identity_t = typename identity<T>::type;

template <class T>
inline constexpr bool never = false;

template <bool B, class X, class Y>
struct pick {
  using type = X;
};
template <class X, class Y>
struct pick<false, X, Y> {
  using type = Y;
};

// 0: not arithmetic; 1: bool; 2: signed integer; 3: unsigned integer; 4: half; 5: float; 6: double.
template <class T>
inline constexpr int kind = 0;
template <class T>
inline constexpr int kind<const T> = kind<T>;
template <class T>
inline constexpr int kind<volatile T> = kind<T>;
template <>
inline constexpr int kind<bool> = 1;
template <>
inline constexpr int kind<char> = 2;
template <>
inline constexpr int kind<signed char> = 2;
template <>
inline constexpr int kind<short> = 2;
template <>
inline constexpr int kind<int> = 2;
template <>
inline constexpr int kind<long> = 2;
template <>
inline constexpr int kind<long long> = 2;
template <>
inline constexpr int kind<unsigned char> = 3;
template <>
inline constexpr int kind<unsigned short> = 3;
template <>
inline constexpr int kind<unsigned int> = 3;
template <>
inline constexpr int kind<unsigned long> = 3;
template <>
inline constexpr int kind<unsigned long long> = 3;
template <>
inline constexpr int kind<half> = 4;
template <>
inline constexpr int kind<float> = 5;
template <>
inline constexpr int kind<double> = 6;

// The bits of a number. Of one that was never set tracked kernels may know by some bits only, and the
// others must not count as set.
template <class Bits, class T>
MSL_INLINE constexpr Bits bits_of(T value) {
  const Bits bits = __builtin_bit_cast(Bits, value);
#if defined(MSL_RT_TRACKED)
  if (!__builtin_is_constant_evaluated()) return static_cast<Bits>(msl_rt_spread(bits));
#endif
  return bits;
}

inline constexpr bool half_is_class = __is_class(half);

template <class T>
inline constexpr bool is_int = kind<T> >= 1 && kind<T> <= 3;

}  // namespace _impl

// bfloat widens implicitly to float; float and half reach it by an explicit conversion only.
struct bfloat {
  uint16_t bits;

  bfloat() = default;

  template <class T, class = _impl::when_t<_impl::is_int<T>>>
  MSL_INLINE constexpr bfloat(T value) : bits(round(static_cast<float>(value))) {}

  template <class T, class = _impl::when_t<(_impl::kind<T> > 3)>, class = void>
  MSL_INLINE constexpr explicit bfloat(T value) : bits(round(static_cast<float>(value))) {}

  template <class T, class = _impl::when_t<(_impl::kind<T> != 0) && _impl::kind<T> != 4>>
  MSL_INLINE constexpr operator T() const {
    return static_cast<T>(widen());
  }

  template <class T, class = _impl::when_t<_impl::kind<T> == 4>, class = void>
  MSL_INLINE constexpr explicit operator T() const {
    return static_cast<T>(widen());
  }

  MSL_INLINE constexpr float widen() const {
    return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
  }

 private:
  static MSL_INLINE constexpr uint16_t round(float value) {
    const uint32_t u = __builtin_bit_cast(uint32_t, value);
#if defined(MSL_RT_TRACKED)
    // In one step, for to round is no decision.
    if (!__builtin_is_constant_evaluated()) return msl_rt_round_to_bfloat(u);
#endif
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      return static_cast<uint16_t>((u >> 16) | 0x40u);
    }
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

namespace _impl {

template <>
inline constexpr int kind<bfloat> = 7;

// The type of `bfloat op T`: an integer joins bfloat, a float wins, half has no common type.
template <class T, int = kind<T>>
struct with_bfloat {};
template <class T>
struct with_bfloat<T, 1> {
  using type = bfloat;
};
template <class T>
struct with_bfloat<T, 2> {
  using type = bfloat;
};
template <class T>
struct with_bfloat<T, 3> {
  using type = bfloat;
};
template <class T>
struct with_bfloat<T, 5> {
  using type = float;
};
template <class T>
struct with_bfloat<T, 6> {
  using type = float;
};
template <class T>
using with_bfloat_t = typename with_bfloat<T>::type;

}  // namespace _impl

#define MSL_BFLOAT_OP(op)                                                       \
  MSL_INLINE constexpr bfloat operator op(bfloat a, bfloat b) {                 \
    return bfloat(a.widen() op b.widen());                                      \
  }                                                                             \
  template <class T>                                                            \
  MSL_INLINE constexpr _impl::with_bfloat_t<T> operator op(bfloat a, T b) {     \
    using R = _impl::with_bfloat_t<T>;                                          \
    return static_cast<R>(a) op static_cast<R>(b);                              \
  }                                                                             \
  template <class T>                                                            \
  MSL_INLINE constexpr _impl::with_bfloat_t<T> operator op(T a, bfloat b) {     \
    using R = _impl::with_bfloat_t<T>;                                          \
    return static_cast<R>(a) op static_cast<R>(b);                              \
  }                                                                             \
  template <class T>                                                            \
  MSL_INLINE constexpr bfloat& operator op##=(bfloat& a, const T& b) {          \
    return a = static_cast<bfloat>(a op b);                                     \
  }                                                                             \
  template <class T, class = _impl::with_bfloat_t<T>>                           \
  MSL_INLINE constexpr T& operator op##=(T& a, bfloat b) {                      \
    return a = static_cast<T>(a op b);                                          \
  }
MSL_BFLOAT_OP(+)
MSL_BFLOAT_OP(-)
MSL_BFLOAT_OP(*)
MSL_BFLOAT_OP(/)
#undef MSL_BFLOAT_OP

#define MSL_BFLOAT_COMPARE(op)                                                           \
  MSL_INLINE constexpr bool operator op(bfloat a, bfloat b) {                            \
    return a.widen() op b.widen();                                                       \
  }                                                                                      \
  template <class T>                                                                     \
  MSL_INLINE constexpr _impl::when_t<sizeof(_impl::with_bfloat_t<T>) != 0, bool>         \
  operator op(bfloat a, T b) {                                                           \
    using R = _impl::with_bfloat_t<T>;                                                   \
    return static_cast<R>(a) op static_cast<R>(b);                                       \
  }                                                                                      \
  template <class T>                                                                     \
  MSL_INLINE constexpr _impl::when_t<sizeof(_impl::with_bfloat_t<T>) != 0, bool>         \
  operator op(T a, bfloat b) {                                                           \
    using R = _impl::with_bfloat_t<T>;                                                   \
    return static_cast<R>(a) op static_cast<R>(b);                                       \
  }
MSL_BFLOAT_COMPARE(==)
MSL_BFLOAT_COMPARE(!=)
MSL_BFLOAT_COMPARE(<)
MSL_BFLOAT_COMPARE(<=)
MSL_BFLOAT_COMPARE(>)
MSL_BFLOAT_COMPARE(>=)
#undef MSL_BFLOAT_COMPARE

MSL_INLINE constexpr bfloat operator-(bfloat a) { return bfloat(-a.widen()); }
MSL_INLINE constexpr bfloat operator+(bfloat a) { return a; }
MSL_INLINE constexpr bfloat& operator++(bfloat& a) { return a += 1; }
MSL_INLINE constexpr bfloat& operator--(bfloat& a) { return a -= 1; }
MSL_INLINE constexpr bfloat operator++(bfloat& a, int) {
  const bfloat old = a;
  a += 1;
  return old;
}
MSL_INLINE constexpr bfloat operator--(bfloat& a, int) {
  const bfloat old = a;
  a -= 1;
  return old;
}

}  // namespace metal

using metal::bfloat;

#include "vec.h"

namespace metal {
namespace _impl {

// For what decides something in code that is not instrumented.
template <class T>
MSL_INLINE void check_set(const T& value, const char* what, msl_rt::Site site) {
#if defined(MSL_RT_TRACKED)
  msl_rt_check_set(&value, sizeof(T), what, site.file, site.line);
#endif
}

// What was made of some arguments where tracked kernels cannot follow: as much set as these are.
template <class R, class... A>
MSL_INLINE R derived(R result, const A&... arguments) {
#if defined(MSL_RT_TRACKED)
  (msl_rt_derive(&result, sizeof(R), &arguments, sizeof(A)), ...);
#endif
  return result;
}

}  // namespace _impl
}  // namespace metal
