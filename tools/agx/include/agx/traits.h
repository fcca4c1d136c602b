// Metal's type traits.
#pragma once

namespace metal {
template <typename T, T V>
struct integral_constant {
  static constant constexpr const T value = V;
  METAL_FUNC constexpr operator T() const { return V; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <bool B, typename T = void>
struct enable_if {};
template <typename T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool B, typename T = void>
using enable_if_t = typename enable_if<B, T>::type;

template <bool B, typename T, typename U>
struct conditional {
  typedef T type;
};
template <typename T, typename U>
struct conditional<false, T, U> {
  typedef U type;
};
template <bool B, typename T, typename U>
using conditional_t = typename conditional<B, T, U>::type;

template <typename T>
struct remove_addrspace {
  typedef T type;
};
#define AGX_SPACE(SPACE)               \
  template <typename T>                \
  struct remove_addrspace<SPACE T> {   \
    typedef T type;                    \
  };
AGX_SPACE(__global)
AGX_SPACE(__constant)
AGX_SPACE(__local)
AGX_SPACE(__private)
AGX_SPACE(__generic)
#undef AGX_SPACE
template <typename T>
using remove_addrspace_t = typename remove_addrspace<T>::type;
template <typename T>
using remove_cv_t = __remove_cv(T);
template <typename T>
using remove_const_t = __remove_const(T);
template <typename T>
using remove_reference_t = __remove_reference_t(T);
template <typename T>
struct remove_cv {
  typedef remove_cv_t<T> type;
};

#define AGX_TRAIT(NAME, ...)                            \
  template <typename T>                                 \
  struct NAME : bool_constant<(__VA_ARGS__)> {};        \
  template <typename T>                                 \
  constant constexpr bool NAME##_v = NAME<T>::value;
AGX_TRAIT(is_integral, __is_integral(T))
AGX_TRAIT(is_floating_point, __is_floating_point(T) || __is_same(T, bfloat))
AGX_TRAIT(is_arithmetic, is_integral<T>::value || is_floating_point<T>::value)
AGX_TRAIT(is_signed, __is_signed(T))
AGX_TRAIT(is_unsigned, __is_unsigned(T))
#undef AGX_TRAIT
template <typename T, typename U>
struct is_same : bool_constant<__is_same(T, U)> {};
template <typename T, typename U>
constant constexpr bool is_same_v = __is_same(T, U);
template <typename T, typename U>
constant constexpr bool is_convertible_v = __is_convertible(T, U);

// Says that a value is one for all threads, which Mesa finds out by itself.
template <typename T>
using uniform = T;
template <typename T>
METAL_FUNC constexpr T make_uniform(T value) {
  return value;
}

template <typename T>
struct numeric_limits;
#define AGX_INTEGER_LIMITS(TYPE, LOWEST, HIGHEST)                        \
  template <>                                                            \
  struct numeric_limits<TYPE> {                                          \
    static METAL_FUNC constexpr TYPE min() { return TYPE(LOWEST); }      \
    static METAL_FUNC constexpr TYPE lowest() { return TYPE(LOWEST); }   \
    static METAL_FUNC constexpr TYPE max() { return TYPE(HIGHEST); }     \
  };
AGX_INTEGER_LIMITS(char, -128, 127)
AGX_INTEGER_LIMITS(uchar, 0, 255)
AGX_INTEGER_LIMITS(short, -32768, 32767)
AGX_INTEGER_LIMITS(ushort, 0, 65535)
AGX_INTEGER_LIMITS(int, -2147483647 - 1, 2147483647)
AGX_INTEGER_LIMITS(uint, 0, 4294967295u)
AGX_INTEGER_LIMITS(long, -9223372036854775807l - 1, 9223372036854775807l)
AGX_INTEGER_LIMITS(ulong, 0, 18446744073709551615ul)
#undef AGX_INTEGER_LIMITS
#define AGX_FLOAT_LIMITS(TYPE, SMALLEST, HIGHEST)                                \
  template <>                                                                    \
  struct numeric_limits<TYPE> {                                                  \
    static METAL_FUNC constexpr TYPE min() { return TYPE(SMALLEST); }            \
    static METAL_FUNC constexpr TYPE lowest() { return TYPE(-(HIGHEST)); }       \
    static METAL_FUNC constexpr TYPE max() { return TYPE(HIGHEST); }             \
    static METAL_FUNC constexpr TYPE infinity() { return TYPE(INFINITY); }       \
    static METAL_FUNC constexpr TYPE quiet_NaN() { return TYPE(NAN); }           \
  };
AGX_FLOAT_LIMITS(float, FLT_MIN, FLT_MAX)
AGX_FLOAT_LIMITS(half, 6.103515625e-5f, 65504.0f)
#undef AGX_FLOAT_LIMITS
}  // namespace metal
