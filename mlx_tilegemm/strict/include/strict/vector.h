// vec<T, N>: components and swizzles that have no address, implicit conversion from a scalar only.
#pragma once

#include "language.h"
#include "swizzle_names.h"

namespace metal {

template <typename T, int N>
struct vec;
template <typename T, int N>
struct packed_vec;

#define STRICT_READ(N, NAME)            \
  vec<T, N> get_##NAME() const;         \
  vec<T, N> get_##NAME() const __constant;
#define STRICT_SWIZZLE_R(N, NAME) \
  STRICT_READ(N, NAME)            \
  __declspec(property(get = get_##NAME)) vec<T, N> NAME;
#define STRICT_SWIZZLE_W(N, NAME) \
  STRICT_READ(N, NAME)            \
  void put_##NAME(vec<T, N>);     \
  __declspec(property(get = get_##NAME, put = put_##NAME)) vec<T, N> NAME;
#define STRICT_COMPONENT(NAME)         \
  T get_##NAME() const;                \
  T get_##NAME() const __constant;     \
  void put_##NAME(T);                  \
  __declspec(property(get = get_##NAME, put = put_##NAME)) T NAME;

#define STRICT_ASSIGN(OP)                                           \
  vec& operator OP(vec);                                            \
  template <typename S, STRICT_IF(strict::meets<T, S>::value)>      \
  vec& operator OP(S);

#define STRICT_VEC_MEMBERS(N)                                          \
  vec() = default;                                                     \
  constexpr vec(const vec&) = default;                                 \
  vec(const __constant vec&);                                          \
  vec& operator=(const vec&) = default;                                \
  vec& operator=(const __constant vec&);                               \
  template <typename S, STRICT_IF(strict::meets<T, S>::value)>         \
  constexpr vec(S all) : elements{T(all)} {}                           \
  template <typename S, STRICT_IF(strict::meets<T, S>::value)>         \
  constexpr vec(S all) __constant : elements{T(all)} {}                \
  template <typename S, STRICT_IF(strict::casts<T, S>::value)>         \
  explicit constexpr vec(S all) : elements{T(all)} {}                  \
  template <typename U>                                                \
  explicit vec(vec<U, N>);                                             \
  vec(packed_vec<T, N>);                                               \
  template <typename I, STRICT_IF(strict::is_index<I>::value)>         \
  T& operator[](I);                                                    \
  template <typename I, STRICT_IF(strict::is_index<I>::value)>         \
  T operator[](I) const;                                               \
  template <typename I, STRICT_IF(strict::is_index<I>::value)>         \
  T operator[](I) const __constant;                                    \
  STRICT_ASSIGN(+=)                                                    \
  STRICT_ASSIGN(-=)                                                    \
  STRICT_ASSIGN(*=)                                                    \
  STRICT_ASSIGN(/=)                                                    \
  STRICT_ASSIGN(%=)                                                    \
  STRICT_ASSIGN(&=)                                                    \
  STRICT_ASSIGN(|=)                                                    \
  STRICT_ASSIGN(^=)                                                    \
  STRICT_ASSIGN(<<=)                                                   \
  STRICT_ASSIGN(>>=)                                                   \
  vec& operator++();                                                   \
  vec& operator--();                                                   \
  vec operator++(int);                                                 \
  vec operator--(int);

template <typename T>
struct vec<T, 2> {
  STRICT_VEC_MEMBERS(2)
  constexpr vec(T x, T y) : elements{x, y} {}
  constexpr vec(T x, T y) __constant : elements{x, y} {}
  STRICT_COMPONENT(x)
  STRICT_COMPONENT(y)
  STRICT_COMPONENT(r)
  STRICT_COMPONENT(g)
  STRICT_SWIZZLES_XY(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_RG(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)

 private:
  alignas(2 * sizeof(T)) T elements[2];
};

template <typename T>
struct vec<T, 3> {
  STRICT_VEC_MEMBERS(3)
  constexpr vec(T x, T y, T z) : elements{x, y, z} {}
  constexpr vec(T x, T y, T z) __constant : elements{x, y, z} {}
  vec(vec<T, 2>, T);
  vec(T, vec<T, 2>);
  STRICT_COMPONENT(x)
  STRICT_COMPONENT(y)
  STRICT_COMPONENT(z)
  STRICT_COMPONENT(r)
  STRICT_COMPONENT(g)
  STRICT_COMPONENT(b)
  STRICT_SWIZZLES_XY(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_XYZ(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_RG(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_RGB(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)

 private:
  alignas(4 * sizeof(T)) T elements[4];
};

template <typename T>
struct vec<T, 4> {
  STRICT_VEC_MEMBERS(4)
  constexpr vec(T x, T y, T z, T w) : elements{x, y, z, w} {}
  constexpr vec(T x, T y, T z, T w) __constant : elements{x, y, z, w} {}
  vec(vec<T, 2>, T, T);
  vec(T, vec<T, 2>, T);
  vec(T, T, vec<T, 2>);
  vec(vec<T, 2>, vec<T, 2>);
  vec(vec<T, 3>, T);
  vec(T, vec<T, 3>);
  STRICT_COMPONENT(x)
  STRICT_COMPONENT(y)
  STRICT_COMPONENT(z)
  STRICT_COMPONENT(w)
  STRICT_COMPONENT(r)
  STRICT_COMPONENT(g)
  STRICT_COMPONENT(b)
  STRICT_COMPONENT(a)
  STRICT_SWIZZLES_XY(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_XYZ(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_XYZW(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_RG(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_RGB(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)
  STRICT_SWIZZLES_RGBA(STRICT_SWIZZLE_R, STRICT_SWIZZLE_W)

 private:
  alignas(4 * sizeof(T)) T elements[4];
};

#undef STRICT_ASSIGN
#undef STRICT_COMPONENT
#undef STRICT_READ
#undef STRICT_SWIZZLE_R
#undef STRICT_SWIZZLE_W
#undef STRICT_VEC_MEMBERS

#define STRICT_BINARY(OP, RESULT, WHEN)                                                     \
  template <typename T, int N, STRICT_IF(strict::WHEN<T>::value)>                           \
  vec<RESULT, N> operator OP(vec<T, N>, vec<T, N>);                                         \
  template <typename T, int N, typename S,                                                  \
            STRICT_IF(strict::meets<T, S>::value && strict::WHEN<T>::value)>                \
  vec<RESULT, N> operator OP(vec<T, N>, S);                                                 \
  template <typename T, int N, typename S,                                                  \
            STRICT_IF(strict::meets<T, S>::value && strict::WHEN<T>::value)>                \
  vec<RESULT, N> operator OP(S, vec<T, N>);

}  // namespace metal

namespace strict {
template <typename T>
struct is_number {
  static constant constexpr const bool value =
      kind_of<T>::value != not_scalar && kind_of<T>::value != is_bool;
};
template <typename T>
struct is_scalar {
  static constant constexpr const bool value = kind_of<T>::value != not_scalar;
};
}  // namespace strict

namespace metal {

STRICT_BINARY(+, T, is_number)
STRICT_BINARY(-, T, is_number)
STRICT_BINARY(*, T, is_number)
STRICT_BINARY(/, T, is_number)
STRICT_BINARY(%, T, is_index)
STRICT_BINARY(&, T, is_index)
STRICT_BINARY(|, T, is_index)
STRICT_BINARY(^, T, is_index)
STRICT_BINARY(<<, T, is_index)
STRICT_BINARY(>>, T, is_index)
STRICT_BINARY(==, bool, is_scalar)
STRICT_BINARY(!=, bool, is_scalar)
STRICT_BINARY(<, bool, is_number)
STRICT_BINARY(<=, bool, is_number)
STRICT_BINARY(>, bool, is_number)
STRICT_BINARY(>=, bool, is_number)
STRICT_BINARY(&&, bool, is_scalar)
STRICT_BINARY(||, bool, is_scalar)
#undef STRICT_BINARY

template <typename T, int N>
vec<T, N> operator+(vec<T, N>);
template <typename T, int N>
vec<T, N> operator-(vec<T, N>);
template <typename T, int N, STRICT_IF(strict::is_index<T>::value)>
vec<T, N> operator~(vec<T, N>);
template <typename T, int N>
vec<bool, N> operator!(vec<T, N>);

// Elements without the alignment of a vector; read and written by index.
template <typename T, int N>
struct packed_vec {
  packed_vec() = default;
  constexpr packed_vec(const packed_vec&) = default;
  packed_vec(const __constant packed_vec&);
  packed_vec& operator=(const packed_vec&) = default;
  packed_vec& operator=(const __constant packed_vec&);
  packed_vec(vec<T, N>);
  packed_vec(T all);
  template <typename... U, STRICT_IF(sizeof...(U) == N)>
  packed_vec(U... each);
  template <typename I, STRICT_IF(strict::is_index<I>::value)>
  T& operator[](I);
  template <typename I, STRICT_IF(strict::is_index<I>::value)>
  T operator[](I) const;
  template <typename I, STRICT_IF(strict::is_index<I>::value)>
  T operator[](I) const __constant;

 private:
  T elements[N];
};

}  // namespace metal

#define STRICT_EACH_SCALAR(X)                                                                \
  X(bool) X(char) X(uchar) X(short) X(ushort) X(int) X(uint) X(long) X(ulong) X(half) X(float) \
  X(bfloat)
#define STRICT_NAMES(TYPE)                            \
  typedef metal::vec<TYPE, 2> TYPE##2;                \
  typedef metal::vec<TYPE, 3> TYPE##3;                \
  typedef metal::vec<TYPE, 4> TYPE##4;                \
  typedef metal::packed_vec<TYPE, 2> packed_##TYPE##2; \
  typedef metal::packed_vec<TYPE, 3> packed_##TYPE##3; \
  typedef metal::packed_vec<TYPE, 4> packed_##TYPE##4; \
  namespace metal {                                   \
  using ::TYPE##2;                                    \
  using ::TYPE##3;                                    \
  using ::TYPE##4;                                    \
  using ::packed_##TYPE##2;                           \
  using ::packed_##TYPE##3;                           \
  using ::packed_##TYPE##4;                           \
  }
STRICT_EACH_SCALAR(STRICT_NAMES)
#undef STRICT_NAMES

namespace metal {
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::ptrdiff_t;
using ::size_t;
using ::uchar;
using ::uint;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;
using ::ulong;
using ::ushort;
}  // namespace metal
