// simd_* and quad_* functions, on what executors have for a meeting of the active lanes: reduce_lanes,
// scan_lanes, fetch and ballot.
#pragma once

#include "types.h"

namespace metal {

namespace _impl {

using msl_rt::Site;

struct add {
  template <class T>
  MSL_INLINE T operator()(T a, T b) const {
    return static_cast<T>(a + b);
  }
};
struct multiply {
  template <class T>
  MSL_INLINE T operator()(T a, T b) const {
    return static_cast<T>(a * b);
  }
};
struct bit_and {
  template <class T>
  MSL_INLINE T operator()(T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct bit_or {
  template <class T>
  MSL_INLINE T operator()(T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct bit_xor {
  template <class T>
  MSL_INLINE T operator()(T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};

// As fmin and fmax: a NaN loses against a number.
struct smaller {
  template <class T>
  MSL_INLINE T operator()(T a, T b) const {
    return a != a ? b : b < a ? b : a;
  }
  template <class T, int N>
  MSL_INLINE vec<T, N> operator()(vec<T, N> a, vec<T, N> b) const {
    for (int i = 0; i < N; ++i) a[i] = (*this)(a[i], b[i]);
    return a;
  }
};
struct larger {
  template <class T>
  MSL_INLINE T operator()(T a, T b) const {
    return a != a ? b : a < b ? b : a;
  }
  template <class T, int N>
  MSL_INLINE vec<T, N> operator()(vec<T, N> a, vec<T, N> b) const {
    for (int i = 0; i < N; ++i) a[i] = (*this)(a[i], b[i]);
    return a;
  }
};

}  // namespace _impl
}  // namespace metal

#include "executor/lanes.h"

namespace metal {

class simd_vote {
 public:
  using vote_t = ulong;
  explicit constexpr simd_vote(vote_t votes = 0) : votes_(votes) {}
  explicit constexpr operator vote_t() const { return votes_; }
  constexpr bool all() const { return votes_ == 0xffffffffu; }
  constexpr bool any() const { return votes_ != 0; }

 private:
  vote_t votes_;
};

class quad_vote {
 public:
  using vote_t = uint;
  explicit constexpr quad_vote(vote_t votes = 0) : votes_(votes) {}
  explicit constexpr operator vote_t() const { return votes_; }
  constexpr bool all() const { return votes_ == 0xf; }
  constexpr bool any() const { return votes_ != 0; }

 private:
  vote_t votes_;
};

#define MSL_SITE _impl::Site site = _impl::Site::here()

#define MSL_REDUCTION(name, op)                                         \
  template <class T>                                                    \
  T simd_##name(T data, MSL_SITE) {                                     \
    return _impl::reduce_lanes<32>(data, site, _impl::op{});            \
  }                                                                     \
  template <class T>                                                    \
  T quad_##name(T data, MSL_SITE) {                                     \
    return _impl::reduce_lanes<4>(data, site, _impl::op{});             \
  }
MSL_REDUCTION(sum, add)
MSL_REDUCTION(product, multiply)
MSL_REDUCTION(min, smaller)
MSL_REDUCTION(max, larger)
MSL_REDUCTION(and, bit_and)
MSL_REDUCTION(or, bit_or)
MSL_REDUCTION(xor, bit_xor)
#undef MSL_REDUCTION

#define MSL_PREFIX(name, op, start)                                             \
  template <class T>                                                            \
  T simd_prefix_inclusive_##name(T data, MSL_SITE) {                            \
    return _impl::scan_lanes<32>(data, site, _impl::op{}, T(start), true);      \
  }                                                                             \
  template <class T>                                                            \
  T simd_prefix_exclusive_##name(T data, MSL_SITE) {                            \
    return _impl::scan_lanes<32>(data, site, _impl::op{}, T(start), false);     \
  }                                                                             \
  template <class T>                                                            \
  T quad_prefix_inclusive_##name(T data, MSL_SITE) {                            \
    return _impl::scan_lanes<4>(data, site, _impl::op{}, T(start), true);       \
  }                                                                             \
  template <class T>                                                            \
  T quad_prefix_exclusive_##name(T data, MSL_SITE) {                            \
    return _impl::scan_lanes<4>(data, site, _impl::op{}, T(start), false);      \
  }
MSL_PREFIX(sum, add, 0)
MSL_PREFIX(product, multiply, 1)
#undef MSL_PREFIX

// `width` lanes from `first` on are the group; a source outside it is no lane at all.
#define MSL_SHUFFLE(name, operand, source)                   \
  template <class T>                                         \
  T name(T data, ushort operand, MSL_SITE) {                 \
    const uint self = msl_rt_lane();                         \
    return _impl::fetch(data, source, site);                 \
  }
#define MSL_SHUFFLES(prefix, width)                                                             \
  MSL_SHUFFLE(prefix##_shuffle, lane, lane < width ? self / width * width + lane : 32u)         \
  MSL_SHUFFLE(prefix##_shuffle_xor, mask, mask < width ? self ^ mask : 32u)                     \
  MSL_SHUFFLE(prefix##_shuffle_up, delta, delta <= self % width ? self - delta : self)          \
  MSL_SHUFFLE(                                                                                  \
      prefix##_shuffle_down, delta, self % width + delta < width ? self + delta : self)         \
  MSL_SHUFFLE(                                                                                  \
      prefix##_shuffle_rotate_up, delta,                                                        \
      self / width * width + (self + width - delta % width) % width)                            \
  MSL_SHUFFLE(                                                                                  \
      prefix##_shuffle_rotate_down, delta, self / width * width + (self + delta) % width)       \
  template <class T>                                                                            \
  T prefix##_broadcast(T data, ushort lane, MSL_SITE) {                                         \
    return prefix##_shuffle(data, lane, site);                                                  \
  }                                                                                             \
  template <class T>                                                                            \
  T prefix##_shuffle_and_fill_up(                                                               \
      T data, T filling, ushort delta, ushort modulo = width, MSL_SITE) {                       \
    const uint self = msl_rt_lane(), at = self % modulo;                                        \
    const uint wrapped = self - at + (at + modulo - delta % modulo) % modulo;                   \
    const T shifted = _impl::fetch(data, at >= delta ? self - delta : self, site);              \
    const T filled = _impl::fetch(filling, wrapped, site);                                      \
    return at >= delta ? shifted : filled;                                                      \
  }                                                                                             \
  template <class T>                                                                            \
  T prefix##_shuffle_and_fill_down(                                                             \
      T data, T filling, ushort delta, ushort modulo = width, MSL_SITE) {                       \
    const uint self = msl_rt_lane(), at = self % modulo;                                        \
    const uint wrapped = self - at + (at + delta) % modulo;                                     \
    const T shifted = _impl::fetch(data, at + delta < modulo ? self + delta : self, site);      \
    const T filled = _impl::fetch(filling, wrapped, site);                                      \
    return at + delta < modulo ? shifted : filled;                                              \
  }
MSL_SHUFFLES(simd, 32)
MSL_SHUFFLES(quad, 4)
#undef MSL_SHUFFLES
#undef MSL_SHUFFLE

inline simd_vote simd_ballot(bool expression, MSL_SITE) {
  return simd_vote(_impl::ballot(expression, site));
}
inline simd_vote simd_active_threads_mask(MSL_SITE) {
  return simd_vote(_impl::ballot(true, site));
}
inline bool simd_any(bool expression, MSL_SITE) { return _impl::any_lane(expression, site); }
inline bool simd_all(bool expression, MSL_SITE) { return !_impl::any_lane(!expression, site); }
inline bool simd_is_first(MSL_SITE) {
  return uint(__builtin_ctz(_impl::ballot(true, site))) == msl_rt_lane();
}
template <class T>
T simd_broadcast_first(T data, MSL_SITE) {
  const uint active = _impl::ballot(true, site);
  return simd_shuffle(data, ushort(__builtin_ctz(active)), site);
}
inline bool simd_is_helper_thread() { return false; }

namespace _impl {

MSL_INLINE uint quad_of(uint mask) { return mask >> (msl_rt_lane() & ~3u) & 15u; }

}  // namespace _impl

inline quad_vote quad_ballot(bool expression, MSL_SITE) {
  return quad_vote(_impl::quad_of(_impl::ballot(expression, site)));
}
inline quad_vote quad_active_threads_mask(MSL_SITE) {
  return quad_vote(_impl::quad_of(_impl::ballot(true, site)));
}
inline bool quad_any(bool expression, MSL_SITE) {
  return _impl::quad_of(_impl::ballot(expression, site)) != 0;
}
inline bool quad_all(bool expression, MSL_SITE) {
  return _impl::quad_of(_impl::ballot(!expression, site)) == 0;
}
inline bool quad_is_first(MSL_SITE) {
  const uint active = _impl::quad_of(_impl::ballot(true, site));
  return uint(__builtin_ctz(active)) == (msl_rt_lane() & 3u);
}
template <class T>
T quad_broadcast_first(T data, MSL_SITE) {
  const uint active = _impl::quad_of(_impl::ballot(true, site));
  return quad_shuffle(data, ushort(__builtin_ctz(active)), site);
}
inline bool quad_is_helper_thread() { return false; }

#undef MSL_SITE

}  // namespace metal
