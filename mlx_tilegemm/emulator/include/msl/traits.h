// <metal_type_traits> and <metal_limits>: type traits and numeric_limits.
//
// Names that MLX adds to namespace metal itself (void_t, make_void, is_empty, pointer_element) are
// left out on purpose.
#pragma once

#include "types.h"

namespace metal {

template <class T, T v>
struct integral_constant {
  static constexpr T value = v;
  using value_type = T;
  using type = integral_constant;
  constexpr operator value_type() const noexcept { return value; }
  constexpr value_type operator()() const noexcept { return value; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <bool B, class T = void>
using enable_if = _impl::when<B, T>;
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;

template <bool B, class X, class Y>
using conditional = _impl::pick<B, X, Y>;
template <bool B, class X, class Y>
using conditional_t = typename conditional<B, X, Y>::type;

#define MSL_TRANSFORM(name, pattern, result, ...) \
  template <class T>                              \
  struct name {                                   \
    using type = T;                               \
  };                                              \
  template <class T __VA_ARGS__>                  \
  struct name<pattern> {                          \
    using type = result;                          \
  };                                              \
  template <class T>                              \
  using name##_t = typename name<T>::type;
MSL_TRANSFORM(remove_const, const T, T)
MSL_TRANSFORM(remove_volatile, volatile T, T)
MSL_TRANSFORM(remove_pointer, T*, T)
MSL_TRANSFORM(remove_extent, T[N], T, , size_t N)
#undef MSL_TRANSFORM

template <class T>
struct remove_reference : _impl::identity<T> {};
template <class T>
struct remove_reference<T&> : _impl::identity<T> {};
template <class T>
struct remove_reference<T&&> : _impl::identity<T> {};
template <class T>
using remove_reference_t = typename remove_reference<T>::type;

template <class T>
struct remove_cv : _impl::identity<remove_const_t<remove_volatile_t<T>>> {};
template <class T>
using remove_cv_t = typename remove_cv<T>::type;

// Address spaces are erased here; what is left to remove is the const of `constant`.
template <class T>
using remove_addrspace = remove_const<T>;
template <class T>
using remove_addrspace_t = typename remove_addrspace<T>::type;

template <class T>
struct decay : _impl::identity<remove_cv_t<remove_reference_t<T>>> {};
template <class T>
using decay_t = typename decay<T>::type;

template <class T>
using add_const = _impl::identity<const T>;
template <class T>
using add_const_t = const T;
template <class T>
using add_pointer = _impl::identity<remove_reference_t<T>*>;
template <class T>
using add_pointer_t = remove_reference_t<T>*;
template <class T>
using add_lvalue_reference = _impl::identity<T&>;
template <class T>
using add_lvalue_reference_t = T&;
template <class T>
using add_rvalue_reference = _impl::identity<T&&>;
template <class T>
using add_rvalue_reference_t = T&&;

template <class T>
T&& declval() noexcept;

template <class T>
constexpr remove_reference_t<T>&& move(T&& value) noexcept {
  return static_cast<remove_reference_t<T>&&>(value);
}
template <class T>
constexpr T&& forward(remove_reference_t<T>& value) noexcept {
  return static_cast<T&&>(value);
}
// <metal_uniform>: a promise about the value, which nothing here relies on.
template <class T>
using uniform = T;
template <class T>
constexpr T make_uniform(T value) {
  return value;
}

namespace _impl {

template <class T>
inline constexpr bool pointer = false;
template <class T>
inline constexpr bool pointer<T*> = true;
template <class T>
inline constexpr bool array_type = false;
template <class T>
inline constexpr bool array_type<T[]> = true;
template <class T, size_t N>
inline constexpr bool array_type<T[N]> = true;
template <class T>
inline constexpr int reference = 0;
template <class T>
inline constexpr int reference<T&> = 1;
template <class T>
inline constexpr int reference<T&&> = 2;
template <class T>
inline constexpr bool constant_type = false;
template <class T>
inline constexpr bool constant_type<const T> = true;
template <class T>
inline constexpr bool vector_type = false;
template <class T, int N>
inline constexpr bool vector_type<vec<T, N>> = true;

// What simd_sum and its kin take.
template <class T>
inline constexpr bool simdgroup_type = kind<T> > 1 && kind<T> != 6 && sizeof(T) <= 4;
template <class T, int N>
inline constexpr bool simdgroup_type<vec<T, N>> = simdgroup_type<T>;

template <class To>
void accept(To);
template <class From, class To, class = void>
inline constexpr bool convertible = false;
template <class From, class To>
inline constexpr bool
    convertible<From, To, decltype(accept<To>(declval<From>()))> = true;
template <>
inline constexpr bool convertible<void, void, void> = true;

// bool, char, short and the like are "integral"; half, bfloat and float are "floating point".
template <class T>
inline constexpr bool integral = kind<T> >= 1 && kind<T> <= 3;
template <class T>
inline constexpr bool floating = kind<T> >= 4;

}  // namespace _impl

#define MSL_TRAIT(name, ...)                            \
  template <class T>                                    \
  inline constexpr bool name##_v = (__VA_ARGS__);       \
  template <class T>                                    \
  struct name : bool_constant<name##_v<T>> {};
#define MSL_TRAIT2(name, ...)                           \
  template <class T, class U>                           \
  inline constexpr bool name##_v = (__VA_ARGS__);       \
  template <class T, class U>                           \
  struct name : bool_constant<name##_v<T, U>> {};

MSL_TRAIT2(is_same, _impl::same<T, U>)
MSL_TRAIT2(is_base_of, __is_base_of(T, U))
MSL_TRAIT2(is_convertible, _impl::convertible<T, U>)
MSL_TRAIT(is_void, _impl::same<remove_cv_t<T>, void>)
MSL_TRAIT(is_integral, _impl::integral<T>)
MSL_TRAIT(is_floating_point, _impl::floating<T>)
MSL_TRAIT(is_arithmetic, _impl::kind<T> != 0)
MSL_TRAIT(is_scalar, _impl::kind<T> != 0 || _impl::pointer<remove_cv_t<T>> || __is_enum(T))
MSL_TRAIT(is_fundamental, _impl::kind<T> != 0 || is_void_v<T>)
MSL_TRAIT(is_signed, _impl::kind<T> == 2 || _impl::kind<T> > 3)
MSL_TRAIT(is_unsigned, _impl::kind<T> == 1 || _impl::kind<T> == 3)
MSL_TRAIT(is_const, _impl::constant_type<T>)
MSL_TRAIT(is_pointer, _impl::pointer<remove_cv_t<T>>)
MSL_TRAIT(is_array, _impl::array_type<T>)
MSL_TRAIT(is_reference, _impl::reference<T> != 0)
MSL_TRAIT(is_lvalue_reference, _impl::reference<T> == 1)
MSL_TRAIT(is_rvalue_reference, _impl::reference<T> == 2)
MSL_TRAIT(is_enum, __is_enum(T))
MSL_TRAIT(is_union, __is_union(T))
MSL_TRAIT(is_class, __is_class(T) && _impl::kind<T> == 0 && !_impl::vector_type<remove_cv_t<T>>)
MSL_TRAIT(is_vector, _impl::vector_type<remove_cv_t<T>>)
MSL_TRAIT(__is_valid_simdgroup_type, _impl::simdgroup_type<T>)
MSL_TRAIT(is_trivially_copyable, __is_trivially_copyable(T))
#undef MSL_TRAIT
#undef MSL_TRAIT2

template <class T>
struct vec_elements : integral_constant<uint, 1> {};
template <class T, int N>
struct vec_elements<vec<T, N>> : integral_constant<uint, N> {};

namespace _impl {

template <class T>
struct other_sign : identity<T> {};
#define MSL_SIGNS(S, U)                           \
  template <>                                     \
  struct other_sign<S> : identity<U> {};          \
  template <>                                     \
  struct other_sign<U> : identity<S> {};
MSL_SIGNS(signed char, unsigned char)
MSL_SIGNS(short, unsigned short)
MSL_SIGNS(int, unsigned int)
MSL_SIGNS(long, unsigned long)
MSL_SIGNS(long long, unsigned long long)
#undef MSL_SIGNS
template <>
struct other_sign<char> : identity<unsigned char> {};

}  // namespace _impl

template <class T>
struct make_unsigned
    : _impl::pick<is_signed_v<T>, typename _impl::other_sign<T>::type, T> {};
template <class T>
using make_unsigned_t = typename make_unsigned<T>::type;
template <class T>
struct make_signed : _impl::pick<is_signed_v<T>, T, typename _impl::other_sign<T>::type> {};
template <class T>
using make_signed_t = typename make_signed<T>::type;

template <class... T>
struct common_type {};
template <class T>
struct common_type<T> : _impl::identity<decay_t<T>> {};
template <class T, class U, class... V>
struct common_type<T, U, V...>
    : common_type<decay_t<decltype(true ? declval<T>() : declval<U>())>, V...> {};
template <class... T>
using common_type_t = typename common_type<T...>::type;

template <class... B>
struct _conjunction : bool_constant<(bool(B::value) && ...)> {};
template <class... B>
struct _disjunction : bool_constant<(bool(B::value) || ...)> {};
template <class B>
struct _negation : bool_constant<!bool(B::value)> {};

// Apple's own name for what stands behind numeric_limits; some kernels specialise it.
template <class T>
struct _numeric_limits_impl {
  static constexpr bool is_specialized = false;
};
template <class T>
struct numeric_limits : _numeric_limits_impl<T> {};
template <class T>
struct numeric_limits<const T> : numeric_limits<T> {};

namespace _impl {

template <class T>
struct int_limits {
  static constexpr bool is_specialized = true;
  static constexpr bool is_signed = kind<T> == 2;
  static constexpr bool is_integer = true;
  static constexpr bool is_exact = true;
  static constexpr bool has_infinity = false;
  static constexpr bool has_quiet_NaN = false;
  static constexpr int radix = 2;
  static constexpr int digits = same<T, bool> ? 1 : int(sizeof(T)) * 8 - is_signed;
  static constexpr int digits10 = digits * 3 / 10;
  static constexpr T max() { return static_cast<T>(~ulong(0) >> (64 - digits)); }
  static constexpr T min() { return is_signed ? static_cast<T>(-max() - 1) : T(0); }
  static constexpr T lowest() { return min(); }
  static constexpr T epsilon() { return T(0); }
  static constexpr T infinity() { return T(0); }
};

template <class T, class Bits, Bits min_, Bits max_, Bits epsilon_, Bits infinity_, Bits nan_,
          Bits denorm_, int digits_, int digits10_, int min_exponent_, int max_exponent_>
struct float_limits {
  static constexpr bool is_specialized = true;
  static constexpr bool is_signed = true;
  static constexpr bool is_integer = false;
  static constexpr bool is_exact = false;
  static constexpr bool has_infinity = true;
  static constexpr bool has_quiet_NaN = true;
  static constexpr int radix = 2;
  static constexpr int digits = digits_;
  static constexpr int digits10 = digits10_;
  static constexpr int min_exponent = min_exponent_;
  static constexpr int max_exponent = max_exponent_;
  static constexpr T from(Bits bits) { return __builtin_bit_cast(T, bits); }
  static constexpr T min() { return from(min_); }
  static constexpr T max() { return from(max_); }
  static constexpr T lowest() { return from(Bits(max_ | (Bits(1) << (sizeof(T) * 8 - 1)))); }
  static constexpr T epsilon() { return from(epsilon_); }
  static constexpr T round_error() { return T(0.5f); }
  static constexpr T infinity() { return from(infinity_); }
  static constexpr T quiet_NaN() { return from(nan_); }
  static constexpr T signaling_NaN() { return from(Bits(infinity_ | 1)); }
  static constexpr T denorm_min() { return from(denorm_); }
};

}  // namespace _impl

#define MSL_INT_LIMITS(T) \
  template <>             \
  struct numeric_limits<T> : _impl::int_limits<T> {};
MSL_INT_LIMITS(bool)
MSL_INT_LIMITS(char)
MSL_INT_LIMITS(signed char)
MSL_INT_LIMITS(unsigned char)
MSL_INT_LIMITS(short)
MSL_INT_LIMITS(unsigned short)
MSL_INT_LIMITS(int)
MSL_INT_LIMITS(unsigned int)
MSL_INT_LIMITS(long)
MSL_INT_LIMITS(unsigned long)
MSL_INT_LIMITS(long long)
MSL_INT_LIMITS(unsigned long long)
#undef MSL_INT_LIMITS

template <>
struct numeric_limits<half> : _impl::float_limits<half, uint16_t, 0x0400, 0x7bff, 0x1400, 0x7c00,
                                                  0x7e00, 1, 11, 3, -13, 16> {};
template <>
struct numeric_limits<bfloat> : _impl::float_limits<bfloat, uint16_t, 0x0080, 0x7f7f, 0x3c00,
                                                    0x7f80, 0x7fc0, 1, 8, 2, -125, 128> {};
template <>
struct numeric_limits<float>
    : _impl::float_limits<float, uint32_t, 0x00800000, 0x7f7fffff, 0x34000000, 0x7f800000,
                          0x7fc00000, 1, 24, 6, -125, 128> {};

}  // namespace metal
