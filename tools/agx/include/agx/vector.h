// vec<T, N> around a native vector: a struct of scalars makes the compiler hold values twice.
#pragma once

namespace agx {
template <typename T>
struct lane {
  typedef T type;
};
template <>
struct lane<bool> {
  typedef uchar type;
};
template <>
struct lane<bfloat> {
  typedef ushort type;
};
template <typename T, int N>
using native = typename lane<T>::type __attribute__((ext_vector_type(N)));
}  // namespace agx

namespace metal {
template <typename T, int N>
struct vec;

#define AGX_COMPONENT(NAME, I)                                   \
  METAL_FUNC T get_##NAME() const { return (*this)[I]; }         \
  METAL_FUNC T get_##NAME() const __constant { return (*this)[I]; } \
  METAL_FUNC void put_##NAME(T value) { (*this)[I] = value; }    \
  __declspec(property(get = get_##NAME, put = put_##NAME)) T NAME;
#define AGX_PAIR(NAME, I, J)                                                          \
  METAL_FUNC vec<T, 2> get_##NAME() const { return vec<T, 2>((*this)[I], (*this)[J]); } \
  METAL_FUNC void put_##NAME(vec<T, 2> value) {                                       \
    (*this)[I] = value[0];                                                            \
    (*this)[J] = value[1];                                                            \
  }                                                                                   \
  __declspec(property(get = get_##NAME, put = put_##NAME)) vec<T, 2> NAME;
#define AGX_ELEMENT(SPACE)                                                            \
  METAL_FUNC SPACE T& operator[](int i) SPACE {                                       \
    return reinterpret_cast<SPACE T*>(&elements)[i];                                  \
  }                                                                                   \
  METAL_FUNC const SPACE T& operator[](int i) const SPACE {                           \
    return reinterpret_cast<const SPACE T*>(&elements)[i];                            \
  }
#define AGX_ASSIGN(OP)                                                                 \
  METAL_FUNC vec& operator OP(vec other) {                                             \
    MLX_MTL_PRAGMA_UNROLL for (int i = 0; i < LENGTH; ++i)(*this)[i] OP other[i];      \
    return *this;                                                                      \
  }                                                                                    \
  METAL_FUNC vec& operator OP(T other) {                                               \
    MLX_MTL_PRAGMA_UNROLL for (int i = 0; i < LENGTH; ++i)(*this)[i] OP other;         \
    return *this;                                                                      \
  }
#define AGX_MEMBERS(N)                                                                   \
  static constant constexpr const int LENGTH = N;                                        \
  agx::native<T, N> elements;                                                            \
  vec() = default;                                                                       \
  METAL_FUNC vec(const vec& other) : elements(other.elements) {}                         \
  METAL_FUNC vec(const __constant vec& other) : elements(other.elements) {}              \
  METAL_FUNC vec& operator=(const vec& other) {                                          \
    elements = other.elements;                                                           \
    return *this;                                                                        \
  }                                                                                      \
  METAL_FUNC vec(T all) {                                                                \
    MLX_MTL_PRAGMA_UNROLL for (int i = 0; i < N; ++i)(*this)[i] = all;                   \
  }                                                                                      \
  template <typename U>                                                                  \
  METAL_FUNC explicit vec(vec<U, N> other) {                                                    \
    MLX_MTL_PRAGMA_UNROLL for (int i = 0; i < N; ++i)(*this)[i] = T(other[i]);           \
  }                                                                                      \
  AGX_ELEMENT(__private)                                                                 \
  AGX_ELEMENT(__local)                                                                   \
  AGX_ELEMENT(__global)                                                                  \
  AGX_ELEMENT(__generic)                                                                 \
  METAL_FUNC T operator[](int i) const __constant {                                      \
    return reinterpret_cast<const __constant T*>(&elements)[i];                          \
  }                                                                                      \
  AGX_ASSIGN(+=)                                                                         \
  AGX_ASSIGN(-=)                                                                         \
  AGX_ASSIGN(*=)                                                                         \
  AGX_ASSIGN(/=)                                                                         \
  AGX_COMPONENT(x, 0)                                                                    \
  AGX_COMPONENT(y, 1)


template <typename T>
struct vec<T, 2> {
  AGX_MEMBERS(2)
  METAL_FUNC vec(T x, T y) { (*this)[0] = x, (*this)[1] = y; }
  AGX_PAIR(xy, 0, 1)
  AGX_PAIR(yx, 1, 0)
};
template <typename T>
struct vec<T, 3> {
  AGX_MEMBERS(3)
  AGX_COMPONENT(z, 2)
  METAL_FUNC vec(T x, T y, T z) { (*this)[0] = x, (*this)[1] = y, (*this)[2] = z; }
  AGX_PAIR(xy, 0, 1)
  AGX_PAIR(yz, 1, 2)
};
template <typename T>
struct vec<T, 4> {
  AGX_MEMBERS(4)
  AGX_COMPONENT(z, 2)
  AGX_COMPONENT(w, 3)
  METAL_FUNC vec(T x, T y, T z, T w) {
    (*this)[0] = x, (*this)[1] = y, (*this)[2] = z, (*this)[3] = w;
  }
  METAL_FUNC vec(vec<T, 2> xy, vec<T, 2> zw) : vec(xy[0], xy[1], zw[0], zw[1]) {}
  AGX_PAIR(xy, 0, 1)
  AGX_PAIR(zw, 2, 3)
};
#undef AGX_ASSIGN
#undef AGX_COMPONENT
#undef AGX_ELEMENT
#undef AGX_MEMBERS
#undef AGX_PAIR

#define AGX_BINARY(RESULT, OP)                                                        \
  template <typename T, int N>                                                        \
  METAL_FUNC vec<RESULT, N> operator OP(vec<T, N> a, vec<T, N> b) {                   \
    vec<RESULT, N> result;                                                            \
    MLX_MTL_PRAGMA_UNROLL for (int i = 0; i < N; ++i) result[i] = a[i] OP b[i];       \
    return result;                                                                    \
  }                                                                                   \
  template <typename T, int N, typename S, typename = enable_if_t<is_arithmetic_v<S>>> \
  METAL_FUNC vec<RESULT, N> operator OP(vec<T, N> a, S b) {                           \
    return a OP vec<T, N>(T(b));                                                      \
  }                                                                                   \
  template <typename T, int N, typename S, typename = enable_if_t<is_arithmetic_v<S>>> \
  METAL_FUNC vec<RESULT, N> operator OP(S a, vec<T, N> b) {                           \
    return vec<T, N>(T(a)) OP b;                                                      \
  }
AGX_BINARY(T, +)
AGX_BINARY(T, -)
AGX_BINARY(T, *)
AGX_BINARY(T, /)
AGX_BINARY(T, %)
AGX_BINARY(T, &)
AGX_BINARY(T, |)
AGX_BINARY(T, ^)
AGX_BINARY(T, <<)
AGX_BINARY(T, >>)
AGX_BINARY(bool, <)
AGX_BINARY(bool, <=)
AGX_BINARY(bool, >)
AGX_BINARY(bool, >=)
AGX_BINARY(bool, ==)
AGX_BINARY(bool, !=)
#undef AGX_BINARY
template <typename T, int N>
METAL_FUNC vec<T, N> operator-(vec<T, N> a) {
  vec<T, N> result;
  MLX_MTL_PRAGMA_UNROLL for (int i = 0; i < N; ++i) result[i] = -a[i];
  return result;
}
}  // namespace metal

#define AGX_NAMES(TYPE)                \
  typedef metal::vec<TYPE, 2> TYPE##2; \
  typedef metal::vec<TYPE, 3> TYPE##3; \
  typedef metal::vec<TYPE, 4> TYPE##4;
AGX_NAMES(bool)
AGX_NAMES(char)
AGX_NAMES(uchar)
AGX_NAMES(short)
AGX_NAMES(ushort)
AGX_NAMES(int)
AGX_NAMES(uint)
AGX_NAMES(long)
AGX_NAMES(ulong)
AGX_NAMES(half)
AGX_NAMES(float)
AGX_NAMES(bfloat)
#undef AGX_NAMES
