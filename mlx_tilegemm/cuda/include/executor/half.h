// half as a class of two bytes: CUDA's own has ambiguous mixed operators. Included by msl/types.h.
#pragma once

namespace metal {
struct bfloat;
}

namespace msl_rt {

template <class A, class B>
inline constexpr bool are_same = false;
template <class A>
inline constexpr bool are_same<A, A> = true;

template <bool, class T>
struct only {};
template <class T>
struct only<true, T> {
  using type = T;
};
template <class T, class Other>
using only_t = typename only<are_same<T, Other>, T>::type;

// For constants.
constexpr uint16_t half_of(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);
  const uint32_t exponent = magnitude >> 23;
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t shift = exponent < 113 ? 126 - exponent : 13;
  const uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1u);
  const uint32_t middle = 1u << (shift - 1);
  const uint32_t rounded = kept + (rest > middle || (rest == middle && (kept & 1u)));
  const uint32_t base = exponent < 113 ? 0 : (exponent - 113) << 10;
  return static_cast<uint16_t>(sign | (base + rounded));
}

constexpr float float_of(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = bits >> 10 & 31u, mantissa = bits & 0x3ffu;
  if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  return __builtin_bit_cast(float, sign | (exponent + 112) << 23 | mantissa << 13);
}

}  // namespace msl_rt

struct half {
  unsigned short bits;

  half() = default;

  __forceinline__ constexpr half(float value) : bits(round(value)) {}

  template <class T, class = msl_rt::only_t<T, double>>
  __forceinline__ half(T value) {
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(value));
  }

  template <class T, class = msl_rt::only_t<T, metal::bfloat>, class = void>
  __forceinline__ constexpr explicit half(T value) : bits(round(value.widen())) {}

  __forceinline__ constexpr operator float() const {
    if (__builtin_is_constant_evaluated()) return msl_rt::float_of(bits);
    float value = 0.0f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }

 private:
  static __forceinline__ constexpr unsigned short round(float value) {
    if (__builtin_is_constant_evaluated()) return msl_rt::half_of(value);
    unsigned short rounded = 0;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
    return rounded;
  }
};

namespace msl_rt {

// The type of `half op T`: an integer joins half, a wider float wins.
template <class T>
struct with_half {};
#define MSL_RT_WITH_HALF(T, R) \
  template <>                  \
  struct with_half<T> {        \
    using type = R;            \
  };
MSL_RT_WITH_HALF(bool, half)
MSL_RT_WITH_HALF(char, half)
MSL_RT_WITH_HALF(signed char, half)
MSL_RT_WITH_HALF(unsigned char, half)
MSL_RT_WITH_HALF(short, half)
MSL_RT_WITH_HALF(unsigned short, half)
MSL_RT_WITH_HALF(int, half)
MSL_RT_WITH_HALF(unsigned int, half)
MSL_RT_WITH_HALF(long, half)
MSL_RT_WITH_HALF(unsigned long, half)
MSL_RT_WITH_HALF(long long, half)
MSL_RT_WITH_HALF(unsigned long long, half)
MSL_RT_WITH_HALF(float, float)
MSL_RT_WITH_HALF(double, double)
#undef MSL_RT_WITH_HALF
template <class T>
using with_half_t = typename with_half<T>::type;

}  // namespace msl_rt

// Arithmetic in float, rounded once: for these operations the same as in half.
#define MSL_RT_HALF_OP(op)                                                               \
  __forceinline__ constexpr half operator op(half a, half b) {                           \
    return half(static_cast<float>(a) op static_cast<float>(b));                         \
  }                                                                                      \
  template <class T>                                                                     \
  __forceinline__ constexpr msl_rt::with_half_t<T> operator op(half a, T b) {            \
    using R = msl_rt::with_half_t<T>;                                                    \
    return static_cast<R>(a) op static_cast<R>(b);                                       \
  }                                                                                      \
  template <class T>                                                                     \
  __forceinline__ constexpr msl_rt::with_half_t<T> operator op(T a, half b) {            \
    using R = msl_rt::with_half_t<T>;                                                    \
    return static_cast<R>(a) op static_cast<R>(b);                                       \
  }                                                                                      \
  template <class T>                                                                     \
  __forceinline__ constexpr half& operator op##=(half& a, const T& b) {                  \
    return a = static_cast<half>(a op b);                                                \
  }                                                                                      \
  template <class T, class = msl_rt::with_half_t<T>>                                     \
  __forceinline__ constexpr T& operator op##=(T& a, half b) {                            \
    return a = static_cast<T>(a op b);                                                   \
  }
MSL_RT_HALF_OP(+)
MSL_RT_HALF_OP(-)
MSL_RT_HALF_OP(*)
MSL_RT_HALF_OP(/)
#undef MSL_RT_HALF_OP

#define MSL_RT_HALF_COMPARE(op)                                                            \
  __forceinline__ constexpr bool operator op(half a, half b) {                             \
    return static_cast<float>(a) op static_cast<float>(b);                                 \
  }                                                                                        \
  template <class T, class R = msl_rt::with_half_t<T>>                                     \
  __forceinline__ constexpr bool operator op(half a, T b) {                                \
    return static_cast<R>(a) op static_cast<R>(b);                                         \
  }                                                                                        \
  template <class T, class R = msl_rt::with_half_t<T>>                                     \
  __forceinline__ constexpr bool operator op(T a, half b) {                                \
    return static_cast<R>(a) op static_cast<R>(b);                                         \
  }
MSL_RT_HALF_COMPARE(==)
MSL_RT_HALF_COMPARE(!=)
MSL_RT_HALF_COMPARE(<)
MSL_RT_HALF_COMPARE(<=)
MSL_RT_HALF_COMPARE(>)
MSL_RT_HALF_COMPARE(>=)
#undef MSL_RT_HALF_COMPARE

__forceinline__ constexpr half operator-(half a) {
  return __builtin_bit_cast(half, static_cast<unsigned short>(a.bits ^ 0x8000u));
}
__forceinline__ constexpr half operator+(half a) { return a; }
__forceinline__ constexpr half& operator++(half& a) { return a += 1; }
__forceinline__ constexpr half& operator--(half& a) { return a -= 1; }
__forceinline__ constexpr half operator++(half& a, int) {
  const half old = a;
  a += 1;
  return old;
}
__forceinline__ constexpr half operator--(half& a, int) {
  const half old = a;
  a -= 1;
  return old;
}
