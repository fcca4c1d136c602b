// <metal_geometric>: sums of half products are formed in float and rounded once.
#pragma once

#include "common.h"

namespace metal {
namespace _impl {

template <class V>
MSL_INLINE float dot(const V& a, const V& b) {
  float sum = static_cast<float>(a.x) * static_cast<float>(b.x);
  for (int i = 1; i < vec_traits<V>::size; ++i) {
    sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  }
  return sum;
}
template <class V>
using element_t = typename vec_traits<V>::element;

}  // namespace _impl

template <class A, class B, class V = _impl::real_t<A, B>>
MSL_INLINE _impl::element_t<V> dot(const A& a, const B& b) {
  return static_cast<_impl::element_t<V>>(_impl::dot(V(a), V(b)));
}
template <class A, class V = _impl::real_t<A>>
MSL_INLINE _impl::element_t<V> length_squared(const A& a) {
  return static_cast<_impl::element_t<V>>(_impl::dot(V(a), V(a)));
}
template <class A, class V = _impl::real_t<A>>
MSL_INLINE _impl::element_t<V> length(const A& a) {
  return static_cast<_impl::element_t<V>>(sqrt(_impl::dot(V(a), V(a))));
}
template <class A, class B, class V = _impl::real_t<A, B>>
MSL_INLINE _impl::element_t<V> distance_squared(const A& a, const B& b) {
  return length_squared(V(a) - V(b));
}
template <class A, class B, class V = _impl::real_t<A, B>>
MSL_INLINE _impl::element_t<V> distance(const A& a, const B& b) {
  return length(V(a) - V(b));
}
template <class A, class V = _impl::real_t<A>>
MSL_INLINE V normalize(const A& a) {
  const V v(a);
  const float scale = rsqrt(_impl::dot(v, v));
  return _impl::map<V>([=](auto x) { return static_cast<decltype(x)>(float(x) * scale); }, v);
}
template <class A, class B, class V = _impl::real_t<A, B>,
          class = _impl::when_t<_impl::vec_traits<V>::size == 3>>
MSL_INLINE V cross(const A& left, const B& right) {
  const V a(left), b(right);
  return V(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}
template <class A, class B, class C, class V = _impl::real_t<A, B, C>>
MSL_INLINE V faceforward(const A& n, const B& i, const C& reference) {
  return _impl::dot(V(reference), V(i)) < 0.0f ? V(n) : -V(n);
}
template <class A, class B, class V = _impl::real_t<A, B>>
MSL_INLINE V reflect(const A& i, const B& n) {
  using T = _impl::element_t<V>;
  return V(i) - T(2) * dot(V(n), V(i)) * V(n);
}
template <class A, class B, class V = _impl::real_t<A, B>>
MSL_INLINE V refract(const A& i, const B& n, _impl::identity_t<_impl::element_t<V>> eta) {
  using T = _impl::element_t<V>;
  const T d = dot(V(n), V(i));
  const T k = T(1) - eta * eta * (T(1) - d * d);
  return k < T(0) ? V(T(0)) : V(eta * V(i) - (eta * d + sqrt(k)) * V(n));
}

#define MSL_EACH_GEOMETRIC(M)                                                          \
  M(dot) M(length) M(length_squared) M(distance) M(distance_squared) M(normalize)      \
  M(cross) M(faceforward) M(reflect) M(refract)
namespace fast {
MSL_EACH_GEOMETRIC(MSL_USING)
}
namespace precise {
MSL_EACH_GEOMETRIC(MSL_USING)
}

}  // namespace metal
