// <metal_type_traits> and <metal_limits>.
#pragma once

#include "vector.h"

namespace metal {

template <typename T, T V>
struct integral_constant {
  static constant constexpr const T value = V;
  typedef T value_type;
  typedef integral_constant type;
  constexpr operator T() const { return V; }
};
template <bool V>
using bool_constant = integral_constant<bool, V>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;

template <bool C, typename T = void>
struct enable_if {};
template <typename T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool C, typename T = void>
using enable_if_t = typename enable_if<C, T>::type;

template <bool C, typename T, typename U>
struct conditional {
  typedef T type;
};
template <typename T, typename U>
struct conditional<false, T, U> {
  typedef U type;
};
template <bool C, typename T, typename U>
using conditional_t = typename conditional<C, T, U>::type;

template <typename T>
struct remove_const {
  typedef T type;
};
template <typename T>
struct remove_const<const T> {
  typedef T type;
};
template <typename T>
struct remove_volatile {
  typedef T type;
};
template <typename T>
struct remove_volatile<volatile T> {
  typedef T type;
};
template <typename T>
struct remove_cv : remove_const<typename remove_volatile<T>::type> {};
template <typename T>
struct remove_reference {
  typedef T type;
};
template <typename T>
struct remove_reference<T&> {
  typedef T type;
};
template <typename T>
struct remove_pointer {
  typedef T type;
};
template <typename T>
struct remove_pointer<T*> {
  typedef T type;
};
template <typename T>
using remove_const_t = typename remove_const<T>::type;
template <typename T>
using remove_cv_t = typename remove_cv<T>::type;
template <typename T>
using remove_reference_t = typename remove_reference<T>::type;
template <typename T>
using remove_pointer_t = typename remove_pointer<T>::type;

template <typename T, typename U>
struct is_same : false_type {};
template <typename T>
struct is_same<T, T> : true_type {};
template <typename From, typename To>
struct is_convertible : bool_constant<__is_convertible_to(From, To)> {};
template <typename T>
struct is_integral : bool_constant<strict::is_index<remove_cv_t<T>>::value> {};
template <typename T>
struct is_floating_point
    : bool_constant<strict::kind_of<remove_cv_t<T>>::value == strict::is_float ||
                    strict::kind_of<remove_cv_t<T>>::value == strict::is_bfloat> {};
template <typename T>
struct is_arithmetic : bool_constant<is_integral<T>::value || is_floating_point<T>::value> {};
template <typename T>
struct is_scalar : is_arithmetic<T> {};
template <typename T>
struct is_signed : bool_constant<is_floating_point<T>::value || __is_signed(T)> {};
template <typename T>
struct is_unsigned : bool_constant<__is_unsigned(T)> {};
template <typename T>
struct is_pointer : bool_constant<__is_pointer(T)> {};
template <typename T>
struct is_empty : bool_constant<__is_empty(T)> {};
template <typename T>
struct is_class : bool_constant<__is_class(T)> {};

template <typename T, typename U>
constexpr constant bool is_same_v = is_same<T, U>::value;
template <typename From, typename To>
constexpr constant bool is_convertible_v = is_convertible<From, To>::value;
template <typename T>
constexpr constant bool is_integral_v = is_integral<T>::value;
template <typename T>
constexpr constant bool is_floating_point_v = is_floating_point<T>::value;
template <typename T>
constexpr constant bool is_arithmetic_v = is_arithmetic<T>::value;
template <typename T>
constexpr constant bool is_signed_v = is_signed<T>::value;
template <typename T>
constexpr constant bool is_unsigned_v = is_unsigned<T>::value;

template <typename T>
struct make_scalar {
  typedef T type;
};
template <typename T, int N>
struct make_scalar<vec<T, N>> {
  typedef T type;
};
template <typename T>
using make_scalar_t = typename make_scalar<T>::type;

// Whole numbers; the types below have their own.
template <typename T>
struct numeric_limits {
  static constexpr T min() { return is_signed ? T(-max() - 1) : T(0); }
  static constexpr T max() { return T((1ul << (digits - 1)) - 1 + (1ul << (digits - 1))); }
  static constexpr T lowest() { return min(); }
  static constexpr T epsilon() { return T(0); }
  static constexpr T infinity() { return T(0); }
  static constexpr T quiet_NaN() { return T(0); }
  static constant constexpr const bool is_specialized = strict::is_scalar<T>::value;
  static constant constexpr const bool is_integer = strict::is_index<T>::value;
  static constant constexpr const bool is_signed = T(-1) < T(0);
  static constant constexpr const bool has_infinity = false;
  static constant constexpr const bool has_quiet_NaN = false;
  static constant constexpr const int digits = 8 * sizeof(T) - (is_signed ? 1 : 0);
};

#define STRICT_FLOAT_LIMITS(TYPE, MIN, MAX, EPSILON, DIGITS)                     \
  template <>                                                                    \
  struct numeric_limits<TYPE> {                                                  \
    static constexpr TYPE min() { return TYPE(MIN); }                            \
    static constexpr TYPE max() { return TYPE(MAX); }                            \
    static constexpr TYPE lowest() { return TYPE(-MAX); }                        \
    static constexpr TYPE epsilon() { return TYPE(EPSILON); }                    \
    static constexpr TYPE round_error() { return TYPE(0.5f); }                   \
    static constexpr TYPE infinity() { return TYPE(__builtin_inff()); }          \
    static constexpr TYPE quiet_NaN() { return TYPE(__builtin_nanf("")); }       \
    static constexpr TYPE signaling_NaN() { return TYPE(__builtin_nanf("")); }   \
    static constexpr TYPE denorm_min() { return TYPE(MIN * EPSILON); }           \
    static constant constexpr const bool is_specialized = true;                  \
    static constant constexpr const bool is_integer = false;                     \
    static constant constexpr const bool is_signed = true;                       \
    static constant constexpr const bool has_infinity = true;                    \
    static constant constexpr const bool has_quiet_NaN = true;                   \
    static constant constexpr const int digits = DIGITS;                         \
  };
STRICT_FLOAT_LIMITS(float, FLT_MIN, FLT_MAX, FLT_EPSILON, 24)
STRICT_FLOAT_LIMITS(half, 6.103515625e-5f, 65504.0f, 9.765625e-4f, 11)
STRICT_FLOAT_LIMITS(bfloat, 1.17549435e-38f, 3.38953139e+38f, 7.8125e-3f, 8)
#undef STRICT_FLOAT_LIMITS

}  // namespace metal

template <typename T, typename U, STRICT_IF(sizeof(T) == sizeof(U))>
T as_type(U);

namespace metal {
template <typename T, int N>
struct array {
  T& operator[](size_t);
  const T& operator[](size_t) const;
  const __constant T& operator[](size_t) const __constant;
  constexpr size_t size() const;
  T elements[N];
};
}  // namespace metal
