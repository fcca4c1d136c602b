// Lifting scalar functions to vectors, and the overload lists that the function headers share.
#pragma once

#include "types.h"

namespace metal {
namespace _impl {

template <class A, class = void>
struct vec_or_void : identity<void> {};
template <class A>
struct vec_or_void<A, when_t<sizeof(as_vec_t<A>) != 0>> : identity<as_vec_t<A>> {};
template <class A>
using vec_or_void_t = typename vec_or_void<A>::type;

template <class... A>
struct first_vec : identity<void> {};
template <class A, class... B>
struct first_vec<A, B...>
    : pick<!same<vec_or_void_t<A>, void>, vec_or_void_t<A>, typename first_vec<B...>::type> {};

template <class V>
inline constexpr int element_kind = 0;
template <class T, int N>
inline constexpr int element_kind<vec<T, N>> = kind<T>;

// The vector type of a call: every argument is that vector or a scalar to be repeated.
template <class V, int Lowest, int Highest, class... A>
inline constexpr bool joins =
    element_kind<V> >= Lowest && element_kind<V> <= Highest &&
    ((same<vec_or_void_t<A>, V> || (same<vec_or_void_t<A>, void> && kind<A> != 0)) && ...);
template <class V, int Lowest, int Highest, class... A>
struct join_with : when<joins<V, Lowest, Highest, A...>, V> {};
template <int Lowest, int Highest, class... A>
struct join : join_with<typename first_vec<A...>::type, Lowest, Highest, A...> {};
template <class... A>
using real_t = typename join<4, 5, A...>::type;
template <class... A>
using int_t = typename join<2, 3, A...>::type;
template <class... A>
using number_t = typename join<2, 5, A...>::type;
template <class... A>
using any_t = typename join<1, 7, A...>::type;

template <class V, class U>
struct with_element {};
template <class T, int N, class U>
struct with_element<vec<T, N>, U> : identity<vec<U, N>> {};
template <class V, class U>
using with_element_t = typename with_element<V, U>::type;

template <class R, class F, class... V>
MSL_INLINE constexpr R map(F f, const V&... v) {
  constexpr int n = vec_traits<R>::size;
  if constexpr (n == 2) {
    return R(f(v.x...), f(v.y...));
  } else if constexpr (n == 3) {
    return R(f(v.x...), f(v.y...), f(v.z...));
  } else {
    return R(f(v.x...), f(v.y...), f(v.z...), f(v.w...));
  }
}

using llong = long long;
using ullong = unsigned long long;

template <class T, int... Kinds>
using when_kind_t = when_t<((kind<T> == Kinds) || ...), T>;

}  // namespace _impl

#define MSL_EACH_INT(M)                                                                  \
  M(char) M(int8_t) M(uchar) M(short) M(ushort) M(int) M(uint) M(long) M(ulong)          \
  M(_impl::llong) M(_impl::ullong)

// MSL_LIFTn(name, set): name(vector...) from name(scalar...), for the vectors that `set` admits.
#define MSL_LIFT1(name, set)                                                     \
  template <class A>                                                             \
  MSL_INLINE constexpr _impl::set<A> name(const A& a) {                          \
    using V = _impl::set<A>;                                                     \
    return _impl::map<V>([](auto x) { return name(x); }, V(a));                  \
  }
#define MSL_LIFT2(name, set)                                                     \
  template <class A, class B>                                                    \
  MSL_INLINE constexpr _impl::set<A, B> name(const A& a, const B& b) {           \
    using V = _impl::set<A, B>;                                                  \
    return _impl::map<V>([](auto x, auto y) { return name(x, y); }, V(a), V(b)); \
  }
#define MSL_LIFT3(name, set)                                                             \
  template <class A, class B, class C>                                                   \
  MSL_INLINE constexpr _impl::set<A, B, C> name(const A& a, const B& b, const C& c) {    \
    using V = _impl::set<A, B, C>;                                                       \
    return _impl::map<V>([](auto x, auto y, auto z) { return name(x, y, z); }, V(a),     \
                         V(b), V(c));                                                    \
  }

}  // namespace metal
