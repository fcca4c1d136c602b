// vec<T, N>, its swizzles, packed_vec<T, N> and their operators. Included by types.h.
#pragma once

#include "executor/runtime.h"
#include "swizzle_names.h"

namespace metal {

template <typename T, int N>
class vec;

template <typename T, int N, typename V = vec<T, N>>
class packed_vec;

// A namespace of its own, so that no helper of ours is found for a call with a swizzle argument.
namespace _swizzles {

enum swizzle_kind { ordered, range, gapped, repeated };

// A swizzle overlays its vector's storage, reads as V and can be assigned if no component repeats.
// Its own assignment must stay trivial, or vec would not be trivially copyable; being trivial, it
// copies all components from the lowest to the highest: wrong where there is a gap.
template <swizzle_kind Kind, class T, class V, int Span, int... I>
class swizzle;

#define MSL_SWIZZLE_COMMON                                               \
 public:                                                                 \
  swizzle() = default;                                                   \
  swizzle(const swizzle&) = default;                                     \
  MSL_INLINE constexpr operator V() const { return V(raw[I]...); }       \
  MSL_INLINE constexpr const T& operator[](int i) const {                \
    constexpr int index[] = {I...};                                      \
    return raw[index[MSL_WITHIN(sizeof...(I), i)]];                      \
  }
#define MSL_SWIZZLE_ASSIGN                                               \
  MSL_INLINE constexpr swizzle& operator=(const V& v) {                  \
    int i = 0;                                                           \
    ((raw[I] = v[i++]), ...);                                            \
    return *this;                                                        \
  }

// Not an aggregate, so that `a.xy = {1, 2}` makes a V.
struct not_aggregate {};

// The usual swizzles name their components, for `auto v = a.xyz; v.x = 1;`.
#define MSL_SWIZZLE_ORDERED(span, xyzw, rgba)                                   \
  template <class T, class V, int... I>                                         \
  class swizzle<ordered, T, V, span, I...> : not_aggregate {                    \
   public:                                                                      \
    union {                                                                     \
      T raw[span];                                                              \
      struct {                                                                  \
        T MSL_LIST xyzw;                                                        \
      };                                                                        \
      struct {                                                                  \
        T MSL_LIST rgba;                                                        \
      };                                                                        \
    };                                                                          \
    MSL_SWIZZLE_COMMON                                                          \
    swizzle& operator=(const swizzle&) = default;                               \
    MSL_SWIZZLE_ASSIGN                                                          \
  };
#define MSL_LIST(...) __VA_ARGS__
MSL_SWIZZLE_ORDERED(2, (x, y), (r, g))
MSL_SWIZZLE_ORDERED(3, (x, y, z), (r, g, b))
MSL_SWIZZLE_ORDERED(4, (x, y, z, w), (r, g, b, a))
#undef MSL_SWIZZLE_ORDERED
#undef MSL_LIST

template <class T, class V, int Span, int... I>
class swizzle<range, T, V, Span, I...> {
  T raw[Span];
  MSL_SWIZZLE_COMMON
  swizzle& operator=(const swizzle&) = default;
  MSL_SWIZZLE_ASSIGN
};

template <class T, class V, int Span, int... I>
class swizzle<gapped, T, V, Span, I...> {
  T raw[Span];
  MSL_SWIZZLE_COMMON
  __attribute__((unavailable("convert the right-hand side to a vector first")))
  swizzle& operator=(const swizzle&) = default;
  MSL_SWIZZLE_ASSIGN
  template <class R>
  MSL_INLINE constexpr swizzle& operator=(R&& value) {
    const V v = static_cast<R&&>(value);
    return *this = v;
  }
};

template <class T, class V, int Span, int... I>
class swizzle<repeated, T, V, Span, I...> {
  T raw[Span];
  MSL_SWIZZLE_COMMON
  __attribute__((unavailable("a swizzle that repeats a component cannot be assigned")))
  swizzle& operator=(const swizzle&) = default;
};

#undef MSL_SWIZZLE_COMMON
#undef MSL_SWIZZLE_ASSIGN

#define MSL_SWIZZLE_COMPOUND(op)                                                          \
  template <swizzle_kind K, class T, class V, int Span, int... I, class R>                \
  MSL_INLINE constexpr swizzle<K, T, V, Span, I...>& operator op##=(                      \
      swizzle<K, T, V, Span, I...>& s, const R& value) {                                  \
    return s = V(s) op value;                                                             \
  }
MSL_SWIZZLE_COMPOUND(+)
MSL_SWIZZLE_COMPOUND(-)
MSL_SWIZZLE_COMPOUND(*)
MSL_SWIZZLE_COMPOUND(/)
MSL_SWIZZLE_COMPOUND(%)
MSL_SWIZZLE_COMPOUND(&)
MSL_SWIZZLE_COMPOUND(|)
MSL_SWIZZLE_COMPOUND(^)
MSL_SWIZZLE_COMPOUND(<<)
MSL_SWIZZLE_COMPOUND(>>)
#undef MSL_SWIZZLE_COMPOUND

}  // namespace _swizzles

namespace _impl {

using _swizzles::swizzle;
using _swizzles::swizzle_kind;

// A constructor argument that is a vector: unlike vec itself, never made from a scalar.
template <class T, int N>
struct part {
  vec<T, N> v;
  MSL_INLINE constexpr part(const vec<T, N>& value) : v(value) {}
  template <_impl::swizzle_kind K, int M, int... I>
  MSL_INLINE constexpr part(const swizzle<K, T, vec<T, N>, M, I...>& value) : v(value) {}
  MSL_INLINE constexpr part(const packed_vec<T, N>& value) : v(value) {}
};

struct no_bfloat {
  explicit no_bfloat() = delete;
};
// bfloat reaches a float vector as it reaches a float.
template <class T>
using bfloat_for = typename pick<same<T, float>, bfloat, no_bfloat>::type;

// A floating scalar becomes an integer vector in so many words only: int4(2.5f), but no i4 * 2.5f.
template <class F, class T, class... None>
inline constexpr bool truncates = sizeof...(None) == 0 && kind<F> >= 4 && kind<F> <= 6 &&
                                  (kind<T> == 2 || kind<T> == 3);

// Where half is a class, a scalar reaches a vector of it as it reaches a half.
template <class F, class T>
inline constexpr bool joins_half = half_is_class && kind<T> == 4 && kind<F> >= 1 && kind<F> <= 6 &&
                                   kind<F> != 4;

// char and int8_t, long and int64_t may be two C++ types where Metal has one.
template <class A, class B>
inline constexpr bool twins =
    !same<A, B> && sizeof(A) == sizeof(B) && kind<A> == kind<B> && (kind<A> == 2 || kind<A> == 3);

}  // namespace _impl

#define MSL_NAMES2(a, b, c, d) a, b
#define MSL_NAMES3(a, b, c, d) a, b, c
#define MSL_NAMES4(a, b, c, d) a, b, c, d

#define MSL_SWIZZLE(xyzw, rgba, kind, span, ...) \
  _swizzles::swizzle<_swizzles::kind, T, vec<T, sizeof(#xyzw) - 1>, span, __VA_ARGS__> xyzw, rgba;

// Members that start at component 1, 2 or 3 sit behind padding of their own.
#define MSL_FROM_Y(SWIZZLES) \
  struct {                   \
    T pad_y_;                \
    union {                  \
      SWIZZLES(MSL_SWIZZLE)  \
    };                       \
  };
#define MSL_FROM_Z(SWIZZLES) \
  struct {                   \
    T pad_z_[2];             \
    union {                  \
      SWIZZLES(MSL_SWIZZLE)  \
    };                       \
  };
#define MSL_FROM_W(SWIZZLES) \
  struct {                   \
    T pad_w_[3];             \
    union {                  \
      SWIZZLES(MSL_SWIZZLE)  \
    };                       \
  };
#define MSL_MEMBERS2 MSL_SWIZZLES2_X(MSL_SWIZZLE) MSL_FROM_Y(MSL_SWIZZLES2_Y)
#define MSL_MEMBERS3               \
  MSL_SWIZZLES3_X(MSL_SWIZZLE)     \
  MSL_FROM_Y(MSL_SWIZZLES3_Y) MSL_FROM_Z(MSL_SWIZZLES3_Z)
#define MSL_MEMBERS4               \
  MSL_SWIZZLES4_X(MSL_SWIZZLE)     \
  MSL_FROM_Y(MSL_SWIZZLES4_Y) MSL_FROM_Z(MSL_SWIZZLES4_Z) MSL_FROM_W(MSL_SWIZZLES4_W)

#define MSL_STORAGE(n)                 \
  union {                              \
    struct {                           \
      T MSL_NAMES##n(x, y, z, w);      \
    };                                 \
    struct {                           \
      T MSL_NAMES##n(r, g, b, a);      \
    };                                 \
    T elements_[n];                    \
    MSL_MEMBERS##n                     \
  };

#define MSL_LIST2(E, op) E(x, op), E(y, op)
#define MSL_LIST3(E, op) MSL_LIST2(E, op), E(z, op)
#define MSL_LIST4(E, op) MSL_LIST3(E, op), E(w, op)
#define MSL_INIT2(value) x(value), y(value)
#define MSL_INIT3(value) MSL_INIT2(value), z(value)
#define MSL_INIT4(value) MSL_INIT3(value), w(value)

#define MSL_E_BINARY(c, op) static_cast<T>(p.c op q.c)
#define MSL_E_COMPARE(c, op) bool(p.c op q.c)
#define MSL_E_UNARY(c, op) static_cast<T>(op p.c)
#define MSL_E_NOT(c, op) !p.c
#define MSL_E_CAST(c, op) static_cast<T>(v.c)

#define MSL_VEC_BINARY(n, op)                                        \
  friend MSL_INLINE constexpr vec operator op(vec p, vec q) {        \
    return vec(MSL_LIST##n(MSL_E_BINARY, op));                       \
  }                                                                  \
  friend MSL_INLINE constexpr vec& operator op##=(vec& p, vec q) {   \
    return p = p op q;                                               \
  }
#define MSL_VEC_COMPARE(n, op)                                           \
  friend MSL_INLINE constexpr vec<bool, n> operator op(vec p, vec q) {   \
    return vec<bool, n>(MSL_LIST##n(MSL_E_COMPARE, op));                 \
  }
#define MSL_VEC_UNARY(n, op)                              \
  friend MSL_INLINE constexpr vec operator op(vec p) {    \
    return vec(MSL_LIST##n(MSL_E_UNARY, op));             \
  }
#define MSL_VEC_STEP(n, op)                                                         \
  friend MSL_INLINE constexpr vec& operator op##op(vec& p) { return p op##= T(1); } \
  friend MSL_INLINE constexpr vec operator op##op(vec& p, int) {              \
    const vec old = p;                                                        \
    p op##= T(1);                                                             \
    return old;                                                               \
  }

// What vec<T, 2>, vec<T, 3> and vec<T, 4> have in common.
#define MSL_VEC_COMMON(n)                                                                     \
 public:                                                                                      \
  MSL_STORAGE(n)                                                                              \
  vec() = default;                                                                            \
  vec(const vec&) = default;                                                                  \
  vec& operator=(const vec&) = default;                                                       \
  MSL_INLINE constexpr vec(T s) : MSL_INIT##n(s) {}                                           \
  MSL_INLINE constexpr vec(_impl::bfloat_for<T> s) : MSL_INIT##n(static_cast<T>(s)) {}        \
  template <class F, _impl::when_t<_impl::joins_half<F, T>, int> = 0>                         \
  MSL_INLINE constexpr vec(F s) : MSL_INIT##n(static_cast<T>(s)) {}                           \
  template <class F, _impl::when_t<_impl::truncates<F, T>, int> = 0>                          \
  MSL_INLINE constexpr explicit vec(F s) : MSL_INIT##n(static_cast<T>(s)) {}                  \
  template <class F, class... None, _impl::when_t<_impl::truncates<F, T, None...>, int> = 0>  \
  vec(F, None...) = delete;                                                                   \
  template <class U, _impl::when_t<!_impl::same<U, T> && !_impl::twins<U, T>, int> = 0>       \
  MSL_INLINE constexpr explicit vec(const vec<U, n>& v) : vec(MSL_LIST##n(MSL_E_CAST, )) {}   \
  template <class U, _impl::when_t<_impl::twins<U, T>, int> = 0>                              \
  MSL_INLINE constexpr vec(const vec<U, n>& v) : vec(MSL_LIST##n(MSL_E_CAST, )) {}            \
  template <_impl::swizzle_kind K, class U, int M, int... I>                                  \
  MSL_INLINE constexpr explicit vec(const _impl::swizzle<K, U, vec<U, n>, M, I...>& v)           \
      : vec(static_cast<vec>(v.operator vec<U, n>())) {}                                      \
  MSL_INLINE constexpr T& operator[](int i) { return elements_[MSL_WITHIN(n, i)]; }           \
  MSL_INLINE constexpr const T& operator[](int i) const {                                     \
    return elements_[MSL_WITHIN(n, i)];                                                       \
  }                                                                                           \
  MSL_VEC_BINARY(n, +)                                                                        \
  MSL_VEC_BINARY(n, -)                                                                        \
  MSL_VEC_BINARY(n, *)                                                                        \
  MSL_VEC_BINARY(n, /)                                                                        \
  MSL_VEC_BINARY(n, %)                                                                        \
  MSL_VEC_BINARY(n, &)                                                                        \
  MSL_VEC_BINARY(n, |)                                                                        \
  MSL_VEC_BINARY(n, ^)                                                                        \
  MSL_VEC_BINARY(n, <<)                                                                       \
  MSL_VEC_BINARY(n, >>)                                                                       \
  MSL_VEC_COMPARE(n, ==)                                                                      \
  MSL_VEC_COMPARE(n, !=)                                                                      \
  MSL_VEC_COMPARE(n, <)                                                                       \
  MSL_VEC_COMPARE(n, <=)                                                                      \
  MSL_VEC_COMPARE(n, >)                                                                       \
  MSL_VEC_COMPARE(n, >=)                                                                      \
  MSL_VEC_COMPARE(n, &&)                                                                      \
  MSL_VEC_COMPARE(n, ||)                                                                      \
  MSL_VEC_UNARY(n, -)                                                                         \
  MSL_VEC_UNARY(n, +)                                                                         \
  MSL_VEC_UNARY(n, ~)                                                                         \
  friend MSL_INLINE constexpr vec<bool, n> operator!(vec p) {                                 \
    return vec<bool, n>(MSL_LIST##n(MSL_E_NOT, ));                                            \
  }                                                                                           \
  MSL_VEC_STEP(n, +)                                                                          \
  MSL_VEC_STEP(n, -)

template <typename T>
class alignas(2 * sizeof(T)) vec<T, 2> {
  MSL_VEC_COMMON(2)
  MSL_INLINE constexpr vec(T x_, T y_) : x(x_), y(y_) {}
};

template <typename T>
class alignas(4 * sizeof(T)) vec<T, 3> {
  using pair = _impl::part<T, 2>;

  MSL_VEC_COMMON(3)
  MSL_INLINE constexpr vec(T x_, T y_, T z_) : x(x_), y(y_), z(z_) {}
  MSL_INLINE constexpr vec(pair p, T z_) : vec(p.v.x, p.v.y, z_) {}
  MSL_INLINE constexpr vec(T x_, pair p) : vec(x_, p.v.x, p.v.y) {}
};

template <typename T>
class alignas(4 * sizeof(T)) vec<T, 4> {
  using pair = _impl::part<T, 2>;
  using triple = _impl::part<T, 3>;

  MSL_VEC_COMMON(4)
  MSL_INLINE constexpr vec(T x_, T y_, T z_, T w_) : x(x_), y(y_), z(z_), w(w_) {}
  MSL_INLINE constexpr vec(pair p, T z_, T w_) : vec(p.v.x, p.v.y, z_, w_) {}
  MSL_INLINE constexpr vec(T x_, pair p, T w_) : vec(x_, p.v.x, p.v.y, w_) {}
  MSL_INLINE constexpr vec(T x_, T y_, pair p) : vec(x_, y_, p.v.x, p.v.y) {}
  MSL_INLINE constexpr vec(pair p, pair q) : vec(p.v.x, p.v.y, q.v.x, q.v.y) {}
  MSL_INLINE constexpr vec(triple p, T w_) : vec(p.v.x, p.v.y, p.v.z, w_) {}
  MSL_INLINE constexpr vec(T x_, triple p) : vec(x_, p.v.x, p.v.y, p.v.z) {}
};

#define MSL_FROM2 x(v.x), y(v.y)
#define MSL_FROM3 MSL_FROM2, z(v.z)
#define MSL_FROM4 MSL_FROM3, w(v.w)

// Element-aligned storage that converts from and to vec<T, n>; arithmetic happens on the vec.
#define MSL_PACKED(n)                                                                       \
  template <typename T>                                                                     \
  class packed_vec<T, n, vec<T, n>> {                                                       \
    using V = vec<T, n>;                                                                    \
                                                                                            \
   public:                                                                                  \
    MSL_STORAGE(n)                                                                          \
    packed_vec() = default;                                                                 \
    packed_vec(const packed_vec&) = default;                                                \
    packed_vec& operator=(const packed_vec&) = default;                                     \
    MSL_INLINE constexpr packed_vec(V v) : MSL_FROM##n {}                                   \
    MSL_INLINE constexpr packed_vec(T s) : MSL_INIT##n(s) {}                                \
    template <_impl::swizzle_kind K, int M, int... I>                                       \
    MSL_INLINE constexpr packed_vec(const _impl::swizzle<K, T, V, M, I...>& v)                 \
        : packed_vec(V(v)) {}                                                               \
    template <class U, _impl::when_t<!_impl::same<U, T>, int> = 0>                          \
    MSL_INLINE constexpr explicit packed_vec(const vec<U, n>& v) : packed_vec(V(v)) {}      \
    template <class A, class B, class... C>                                                 \
    MSL_INLINE constexpr packed_vec(const A& a, const B& b, const C&... c)                  \
        : packed_vec(V(a, b, c...)) {}                                                      \
    MSL_INLINE constexpr operator V() const { return V(MSL_NAMES##n(x, y, z, w)); }         \
    MSL_INLINE constexpr T& operator[](int i) { return elements_[MSL_WITHIN(n, i)]; }       \
    MSL_INLINE constexpr const T& operator[](int i) const {                                 \
      return elements_[MSL_WITHIN(n, i)];                                                   \
    }                                                                                       \
  };
MSL_PACKED(2)
MSL_PACKED(3)
MSL_PACKED(4)

namespace _impl {

// as_vec_t<A>: the vector that A is or reads as; no type for a scalar.
template <class A>
struct as_vec {};
template <class T, int N>
struct as_vec<vec<T, N>> {
  using type = vec<T, N>;
};
template <swizzle_kind K, class T, class V, int N, int... I>
struct as_vec<swizzle<K, T, V, N, I...>> {
  using type = V;
};
template <class T, int N, class V>
struct as_vec<packed_vec<T, N, V>> {
  using type = V;
};
template <class A>
using as_vec_t = typename as_vec<A>::type;

template <class V>
struct vec_traits {};
template <class T, int N>
struct vec_traits<vec<T, N>> {
  using element = T;
  static constexpr int size = N;
};

}  // namespace _impl

#define MSL_PACKED_ASSIGN(op)                                                             \
  template <class T, int N, class V, class R>                                             \
  MSL_INLINE constexpr packed_vec<T, N, V>& operator op##=(packed_vec<T, N, V>& p,        \
                                                           const R& value) {              \
    return p = V(p) op value;                                                             \
  }
MSL_PACKED_ASSIGN(+)
MSL_PACKED_ASSIGN(-)
MSL_PACKED_ASSIGN(*)
MSL_PACKED_ASSIGN(/)
#undef MSL_PACKED_ASSIGN

#define MSL_NAMED(spelling, T)           \
  using spelling##2 = vec<T, 2>;         \
  using spelling##3 = vec<T, 3>;         \
  using spelling##4 = vec<T, 4>;         \
  using packed_##spelling##2 = packed_vec<T, 2>; \
  using packed_##spelling##3 = packed_vec<T, 3>; \
  using packed_##spelling##4 = packed_vec<T, 4>;

#define MSL_EACH_NAMED(M)                                                                \
  M(bool, bool)                                                                          \
  M(char, char) M(uchar, uchar) M(short, short) M(ushort, ushort) M(int, int)            \
  M(uint, uint) M(long, long) M(ulong, ulong) M(half, half) M(bfloat, bfloat) M(float, float)
MSL_EACH_NAMED(MSL_NAMED)

}  // namespace metal

#if !defined(MSL_RT_OWN_VECTORS)
#define MSL_GLOBAL(spelling, T)                                             \
  using metal::spelling##2;                                                 \
  using metal::spelling##3;                                                 \
  using metal::spelling##4;                                                 \
  using metal::packed_##spelling##2;                                        \
  using metal::packed_##spelling##3;                                        \
  using metal::packed_##spelling##4;
MSL_EACH_NAMED(MSL_GLOBAL)

#undef MSL_GLOBAL
#endif

#undef MSL_NAMED
#undef MSL_EACH_NAMED
