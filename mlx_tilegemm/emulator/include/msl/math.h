// <metal_math>: half is computed in float and rounded once; bfloat converts to float (MLX's prelude
// adds the bfloat overloads). fast:: and precise:: are the same functions.
#pragma once

#include "integer.h"

#define MAXFLOAT 3.40282346638528859812e+38f
#define HUGE_VALF __builtin_huge_valf()
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FP_ILOGB0 (-2147483647 - 1)
#define FP_ILOGBNAN (-2147483647 - 1)

#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define FLT_MAX_10_EXP 38
#define FLT_MAX_EXP 128
#define FLT_MIN_10_EXP (-37)
#define FLT_MIN_EXP (-125)
#define FLT_RADIX 2
#define FLT_MAX 3.40282346638528859812e+38f
#define FLT_MIN 1.17549435082228750797e-38f
#define FLT_EPSILON 1.1920928955078125e-07f
#define FLT_DECIMAL_DIG 9
#define FLT_TRUE_MIN 1.40129846432481707092e-45f

#define HALF_DIG 3
#define HALF_MANT_DIG 11
#define HALF_MAX_10_EXP 4
#define HALF_MAX_EXP 16
#define HALF_MIN_10_EXP (-4)
#define HALF_MIN_EXP (-13)
#define HALF_RADIX 2
#define HALF_MAX half(65504.0f)
#define HALF_MIN half(6.103515625e-05f)
#define HALF_EPSILON half(9.765625e-04f)
#define MAXHALF half(65504.0f)
#define HUGE_VALH half(__builtin_inff())

#define CHAR_BIT 8
#define SCHAR_MAX 127
#define SCHAR_MIN (-128)
#define UCHAR_MAX 255
#define CHAR_MAX 127
#define CHAR_MIN (-128)
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807l
#define LONG_MIN (-9223372036854775807l - 1)
#define ULONG_MAX 18446744073709551615ul

// M_*_F in float, M_*_H in half.
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.434294481903251827651f
#define M_LN2_F 0.693147180559945309417f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.785398163397448309616f
#define M_1_PI_F 0.318309886183790671538f
#define M_2_PI_F 0.636619772367581343076f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.707106781186547524401f
#define M_E_H half(M_E_F)
#define M_LOG2E_H half(M_LOG2E_F)
#define M_LOG10E_H half(M_LOG10E_F)
#define M_LN2_H half(M_LN2_F)
#define M_LN10_H half(M_LN10_F)
#define M_PI_H half(M_PI_F)
#define M_PI_2_H half(M_PI_2_F)
#define M_PI_4_H half(M_PI_4_F)
#define M_1_PI_H half(M_1_PI_F)
#define M_2_PI_H half(M_2_PI_F)
#define M_2_SQRTPI_H half(M_2_SQRTPI_F)
#define M_SQRT2_H half(M_SQRT2_F)
#define M_SQRT1_2_H half(M_SQRT1_2_F)

#if !defined(__clang__)
// gcc defines these with a literal suffix that C++ lacks.
#undef __FLT16_MAX__
#undef __FLT16_MIN__
#undef __FLT16_EPSILON__
#define __FLT16_MAX__ half(65504.0f)
#define __FLT16_MIN__ half(6.103515625e-05f)
#define __FLT16_EPSILON__ half(9.765625e-04f)
#endif

namespace metal {
namespace _impl {

// Some compilers follow values through these and some do not.
#if defined(MSL_RT_TRACKED)
#define MSL_OUTSIDE inline MSL_RT_UNCHECKED
#else
#define MSL_OUTSIDE MSL_INLINE
#endif
MSL_OUTSIDE float scaled(float x, int exponent) { return __builtin_ldexpf(x, exponent); }
MSL_OUTSIDE float fraction(float x, int* exponent) { return __builtin_frexpf(x, exponent); }
MSL_OUTSIDE int exponent(float x) { return __builtin_ilogbf(x); }
#undef MSL_OUTSIDE

// Long, so that no option can make it single.
constexpr double pi = 3.14159265358979323846L;

// sin, cos and tan of pi * x, with the period removed exactly before pi comes in.
MSL_INLINE double turns(float x) { return x - 2.0 * __builtin_rint(x * 0.5); }
MSL_INLINE float sinpi(float x) {
  const double t = turns(x);
  const double a = __builtin_fabs(t);
  const double near = a > 0.5 ? 1.0 - a : a;
  return static_cast<float>(__builtin_copysign(__builtin_sin(pi * near), t));
}
MSL_INLINE float cospi(float x) {
  const double a = __builtin_fabs(turns(x));
  return static_cast<float>(__builtin_sin(pi * (0.5 - a)));
}
MSL_INLINE float tanpi(float x) {
  const double t = x - __builtin_rint(double(x));
  return static_cast<float>(derived(__builtin_tan(pi * t), t));
}
MSL_INLINE float fract(float x) {
  const float f = x - __builtin_floorf(x);
  return x - x != 0.0f ? (x != x ? x : 0.0f) : f < 1.0f ? f : 0x1.fffffep-1f;
}
MSL_INLINE half nextafter(half x, half y) {
  if (x != x || y != y) {
    return x + y;
  }
  if (x == y) {
    return y;
  }
  const uint16_t bits = bits_of<uint16_t>(x);
  if ((bits & 0x7fff) == 0) {
    return __builtin_bit_cast(half, static_cast<uint16_t>(y > x ? 0x0001 : 0x8001));
  }
  const bool away = (y > x) == ((bits & 0x8000) == 0);
  return __builtin_bit_cast(half, static_cast<uint16_t>(away ? bits + 1 : bits - 1));
}

}  // namespace _impl

#define MSL_REAL1(name, ...)                                                          \
  MSL_INLINE float name(float x) { return static_cast<float>(__VA_ARGS__); }          \
  MSL_INLINE half name(half x) { return static_cast<half>(name(static_cast<float>(x))); } \
  MSL_LIFT1(name, real_t)
#define MSL_REAL2(name, ...)                                                          \
  MSL_INLINE float name(float x, float y) { return static_cast<float>(__VA_ARGS__); } \
  MSL_INLINE half name(half x, half y) {                                              \
    return static_cast<half>(name(static_cast<float>(x), static_cast<float>(y)));     \
  }                                                                                   \
  MSL_LIFT2(name, real_t)
#define MSL_REAL3(name, ...)                                                            \
  MSL_INLINE float name(float x, float y, float z) { return __VA_ARGS__; }              \
  MSL_INLINE half name(half x, half y, half z) {                                        \
    return static_cast<half>(                                                           \
        name(static_cast<float>(x), static_cast<float>(y), static_cast<float>(z)));     \
  }                                                                                     \
  MSL_LIFT3(name, real_t)

MSL_REAL1(fabs, __builtin_fabsf(x))
MSL_REAL1(acos, _impl::derived(__builtin_acos(x), x))
MSL_REAL1(acosh, _impl::derived(__builtin_acosh(x), x))
MSL_REAL1(asin, _impl::derived(__builtin_asin(x), x))
MSL_REAL1(asinh, _impl::derived(__builtin_asinh(x), x))
MSL_REAL1(atan, _impl::derived(__builtin_atan(x), x))
MSL_REAL1(atanh, _impl::derived(__builtin_atanh(x), x))
MSL_REAL1(ceil, __builtin_ceilf(x))
MSL_REAL1(cos, __builtin_cosf(x))
MSL_REAL1(cosh, _impl::derived(__builtin_cosh(x), x))
MSL_REAL1(cospi, _impl::cospi(x))
MSL_REAL1(exp, __builtin_expf(x))
MSL_REAL1(exp2, __builtin_exp2f(x))
MSL_REAL1(exp10, __builtin_pow(10.0, x))
MSL_REAL1(floor, __builtin_floorf(x))
MSL_REAL1(fract, _impl::fract(x))
MSL_REAL1(log, __builtin_logf(x))
MSL_REAL1(log2, __builtin_log2f(x))
MSL_REAL1(log10, __builtin_log10(x))
MSL_REAL1(rint, __builtin_rintf(x))
MSL_REAL1(round, __builtin_roundf(x))
MSL_REAL1(rsqrt, 1.0 / __builtin_sqrt(x))
MSL_REAL1(sin, __builtin_sinf(x))
MSL_REAL1(sinh, _impl::derived(__builtin_sinh(x), x))
MSL_REAL1(sinpi, _impl::sinpi(x))
MSL_REAL1(sqrt, __builtin_sqrtf(x))
MSL_REAL1(tan, _impl::derived(__builtin_tan(x), x))
MSL_REAL1(tanh, _impl::derived(__builtin_tanh(x), x))
MSL_REAL1(tanpi, _impl::tanpi(x))
MSL_REAL1(trunc, __builtin_truncf(x))

MSL_REAL2(atan2, _impl::derived(__builtin_atan2(x, y), x, y))
MSL_REAL2(copysign, __builtin_copysignf(x, y))
MSL_REAL2(fdim, x <= y ? 0.0f : x - y)
// Of two zeros an executor's own instruction may give either, as Metal's.
#if !defined(MSL_RT_FMAX)
#define MSL_RT_FMAX(x, y) (x != x || x < y ? y : x)
#define MSL_RT_FMIN(x, y) (x != x || y < x ? y : x)
#endif
MSL_REAL2(fmax, MSL_RT_FMAX(x, y))
MSL_REAL2(fmin, MSL_RT_FMIN(x, y))
MSL_REAL2(fmod, __builtin_fmodf(x, y))
MSL_REAL2(pow, __builtin_powf(x, y))
MSL_REAL2(powr, x < 0.0f ? __builtin_nanf("") : __builtin_powf(x, y))
MSL_REAL2(divide, x / y)

MSL_INLINE float nextafter(float x, float y) {
  return _impl::derived(__builtin_nextafterf(x, y), x, y);
}
MSL_INLINE half nextafter(half x, half y) { return _impl::nextafter(x, y); }
MSL_LIFT2(nextafter, real_t)

// The product of two halves is exact in double, and so is every sum that decides the rounding.
MSL_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
MSL_INLINE half fma(half x, half y, half z) {
  return static_cast<half>(double(x) * double(y) + double(z));
}
MSL_LIFT3(fma, real_t)

MSL_REAL3(fmax3, fmax(x, fmax(y, z)))
MSL_REAL3(fmin3, fmin(x, fmin(y, z)))
MSL_REAL3(fmedian3, fmax(fmin(x, y), fmin(fmax(x, y), z)))

// The names shared with the integers.
#define MSL_REAL_SHARED(T)                                                         \
  MSL_INLINE T abs(T x) { return fabs(x); }                                        \
  MSL_INLINE T max(T x, T y) { return fmax(x, y); }                                \
  MSL_INLINE T min(T x, T y) { return fmin(x, y); }                                \
  MSL_INLINE T max3(T x, T y, T z) { return fmax3(x, y, z); }                      \
  MSL_INLINE T min3(T x, T y, T z) { return fmin3(x, y, z); }                      \
  MSL_INLINE T median3(T x, T y, T z) { return fmedian3(x, y, z); }                \
  MSL_INLINE T clamp(T x, T low, T high) { return fmin(fmax(x, low), high); }      \
  MSL_INLINE T ldexp(T x, int k) {                                                 \
    const float f = static_cast<float>(x);                                         \
    return static_cast<T>(_impl::derived(_impl::scaled(f, k), f, k));              \
  }                                                                                \
  MSL_INLINE int ilogb(T x) {                                                      \
    const float f = static_cast<float>(x);                                         \
    return f == 0.0f || f != f ? FP_ILOGB0                                     \
                                  : _impl::derived(_impl::exponent(f), f);         \
  }                                                                                \
  MSL_INLINE T frexp(T x, int& exponent) {                                         \
    const float f = static_cast<float>(x);                                         \
    int e = 0;                                                                     \
    const float fraction = _impl::fraction(f, &e);                                 \
    exponent = _impl::derived(e, f);                                               \
    return static_cast<T>(_impl::derived(fraction, f));                            \
  }                                                                                \
  MSL_INLINE T modf(T x, T& whole) {                                               \
    whole = trunc(x);                                                              \
    const T rest = x - x != x - x ? (x != x ? x : T(0)) : x - whole;               \
    return copysign(rest, x);                                                      \
  }                                                                                \
  MSL_INLINE T sincos(T x, T& cosine) {                                            \
    cosine = cos(x);                                                               \
    return sin(x);                                                                 \
  }
MSL_REAL_SHARED(float)
MSL_REAL_SHARED(half)
#undef MSL_REAL_SHARED

MSL_LIFT1(abs, number_t)
MSL_LIFT2(max, number_t)
MSL_LIFT2(min, number_t)
MSL_LIFT3(max3, number_t)
MSL_LIFT3(min3, number_t)
MSL_LIFT3(median3, number_t)
MSL_LIFT3(clamp, number_t)

template <class A, class V = _impl::real_t<A>>
MSL_INLINE V ldexp(const A& a, _impl::identity_t<_impl::with_element_t<V, int>> k) {
  return _impl::map<V>([](auto x, int e) { return ldexp(x, e); }, V(a), k);
}
template <class A, class V = _impl::real_t<A>>
MSL_INLINE _impl::with_element_t<V, int> ilogb(const A& a) {
  return _impl::map<_impl::with_element_t<V, int>>([](auto x) { return ilogb(x); }, V(a));
}
template <class A, class V = _impl::real_t<A>>
MSL_INLINE V frexp(const A& a, _impl::with_element_t<V, int>& exponent) {
  V v(a);
  for (int i = 0; i < _impl::vec_traits<V>::size; ++i) {
    v[i] = frexp(v[i], exponent[i]);
  }
  return v;
}
template <class A, class V = _impl::real_t<A>>
MSL_INLINE V modf(const A& a, _impl::identity_t<V>& whole) {
  V v(a);
  for (int i = 0; i < _impl::vec_traits<V>::size; ++i) {
    v[i] = modf(v[i], whole[i]);
  }
  return v;
}
template <class A, class V = _impl::real_t<A>>
MSL_INLINE V sincos(const A& a, _impl::identity_t<V>& cosine) {
  cosine = cos(V(a));
  return sin(V(a));
}

#define MSL_EACH_REAL(M)                                                                       \
  M(abs) M(acos) M(acosh) M(asin) M(asinh) M(atan) M(atan2) M(atanh) M(ceil) M(clamp)          \
  M(copysign) M(cos) M(cosh) M(cospi) M(divide) M(exp) M(exp10) M(exp2) M(fabs) M(fdim)        \
  M(floor) M(fma) M(fmax) M(fmax3) M(fmedian3) M(fmin) M(fmin3) M(fmod) M(fract) M(frexp)      \
  M(ilogb) M(ldexp) M(log) M(log10) M(log2) M(max) M(max3) M(median3) M(min) M(min3) M(modf)   \
  M(nextafter) M(pow) M(powr) M(rint) M(round) M(rsqrt) M(sin) M(sincos) M(sinh) M(sinpi)      \
  M(sqrt) M(tan) M(tanh) M(tanpi) M(trunc)
#define MSL_USING(name) using metal::name;

namespace fast {
MSL_EACH_REAL(MSL_USING)
}
namespace precise {
MSL_EACH_REAL(MSL_USING)
}

}  // namespace metal
