// simd_* and quad_* functions. Each is one meeting of the active lanes of a simdgroup: every lane
// leaves its operand in the mailbox and the last to come computes what all of them get.
#pragma once

#include "runtime.h"
#include "types.h"

namespace metal {

namespace _impl {

using msl_rt::Mailbox;
using msl_rt::Site;

template <class T>
MSL_INLINE T get_slot(const Mailbox* box, uint lane) {
  static_assert(sizeof(T) <= msl_rt::slot_bytes, "too large for a simd function");
  T value;
  __builtin_memcpy(&value, box->slots[lane], sizeof(T));
  return value;
}

template <class T>
MSL_INLINE void set_slot(Mailbox* box, uint lane, const T& value) {
  __builtin_memcpy(box->slots[lane], &value, sizeof(T));
}

MSL_INLINE bool is_active(const Mailbox* box, uint lane) {
  return lane < 32 && (box->lanes >> lane & 1);
}

// What slots know of values that were never set; of them one with such bits is kept.
MSL_INLINE void join_shadow(msl_rt::SlotShadow* joined, const msl_rt::SlotShadow& other) {
  for (uint i = 0; i < msl_rt::slot_bytes; ++i) joined->bits[i] |= other.bits[i];
  if (joined->origin == 0) joined->origin = other.origin;
}

// The leader runs finish(box); every lane then gets the slot that choose(lane) names. Of a lane that
// is not there Metal leaves the value undefined; here it gets its own.
template <class T, class R, class Finish, class Choose>
MSL_RT_UNCHECKED void exchange(
    const T* value, R* result, Site site, Finish finish, Choose choose) {
  uint lane;
  Mailbox* box = msl_rt_mailbox(&lane);
  __builtin_memcpy(box->operands[lane], value, sizeof(T));
#if defined(MSL_RT_TRACKED)
  msl_rt_take_shadow(&box->operand_shadows[lane], value, sizeof(T));
#endif
  if (msl_rt_rendezvous(site.file, site.line)) {
    finish(box);
#if defined(MSL_RT_TRACKED)
    finish.join_shadows(box);
#endif
    msl_rt_release();
  }
  const uint slot = choose(lane);
  const bool is_there = is_active(box, slot);
  __builtin_memcpy(result, box->slots[is_there ? slot : lane], sizeof(R));
#if defined(MSL_RT_TRACKED)
  msl_rt::SlotShadow undefined;
  undefined.origin = msl_rt::inactive_lane;
  __builtin_memset(undefined.bits, 0xff, sizeof(undefined.bits));
  msl_rt_give_shadow(result, is_there ? &box->shadows[slot] : &undefined, sizeof(R));
#endif
}

template <class R, class T, class Finish, class Choose>
MSL_INLINE R meet(const T& value, Site site, Finish finish, Choose choose) {
  R result;
  exchange(&value, &result, site, finish, choose);
  return result;
}

struct nothing {
  MSL_INLINE void operator()(Mailbox*) const {}
  MSL_INLINE void join_shadows(Mailbox*) const {}
};

struct own_slot {
  MSL_INLINE uint operator()(uint lane) const { return lane; }
};

struct slot_of {
  uint lane;
  MSL_INLINE uint operator()(uint) const { return lane; }
};

// Reduces each group of `Width` lanes in the order of a butterfly: neighbours first.
template <uint Width, class T, class Op>
struct butterfly {
  Op op;

  MSL_RT_UNCHECKED void operator()(Mailbox* box) const {
    for (uint first = 0; first < 32; first += Width) reduce(box, first);
  }

  MSL_RT_UNCHECKED void reduce(Mailbox* box, uint first) const {
    T values[Width] = {};
    bool active[Width];
    for (uint i = 0; i < Width; ++i) {
      active[i] = is_active(box, first + i);
      if (active[i]) values[i] = get_slot<T>(box, first + i);
    }
    for (uint step = 1; step < Width; step *= 2) {
      for (uint i = 0; i + step < Width; i += 2 * step) {
        if (active[i] && active[i + step]) values[i] = op(values[i], values[i + step]);
        if (!active[i] && active[i + step]) values[i] = values[i + step];
        active[i] = active[i] || active[i + step];
      }
    }
    for (uint i = 0; i < Width; ++i) set_slot(box, first + i, values[0]);
  }

  MSL_RT_UNCHECKED void join_shadows(Mailbox* box) const {
    for (uint first = 0; first < 32; first += Width) {
      msl_rt::SlotShadow joined = {};
      for (uint i = first; i < first + Width; ++i) {
        if (is_active(box, i)) join_shadow(&joined, box->shadows[i]);
      }
      for (uint i = first; i < first + Width; ++i) box->shadows[i] = joined;
    }
  }
};

template <uint Width, class T, class Op>
MSL_INLINE T reduce_lanes(T value, Site site, Op op) {
  return meet<T>(value, site, butterfly<Width, T, Op>{op}, own_slot{});
}

// Prefix results, in lane order.
template <uint Width, class T, class Op>
struct scan {
  Op op;
  T start;
  bool inclusive;

  MSL_RT_UNCHECKED void operator()(Mailbox* box) const {
    for (uint first = 0; first < 32; first += Width) {
      T running = start;
      for (uint lane = first; lane < first + Width; ++lane) {
        if (!is_active(box, lane)) continue;
        const T before = running;
        running = static_cast<T>(op(running, get_slot<T>(box, lane)));
        set_slot(box, lane, inclusive ? running : before);
      }
    }
  }

  MSL_RT_UNCHECKED void join_shadows(Mailbox* box) const {
    for (uint first = 0; first < 32; first += Width) {
      msl_rt::SlotShadow running = {};
      for (uint lane = first; lane < first + Width; ++lane) {
        if (!is_active(box, lane)) continue;
        const msl_rt::SlotShadow before = running;
        join_shadow(&running, box->shadows[lane]);
        box->shadows[lane] = inclusive ? running : before;
      }
    }
  }
};

template <uint Width, class T, class Op>
MSL_INLINE T scan_lanes(T value, Site site, Op op, T start, bool inclusive) {
  return meet<T>(value, site, scan<Width, T, Op>{op, start, inclusive}, own_slot{});
}

template <class T>
MSL_INLINE T fetch(T value, uint from, Site site) {
  check_set(from, "lane that a simd function reads from", site);
  return meet<T>(value, site, nothing{}, slot_of{from});
}

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

// A bit for each lane that votes yes.
struct vote {
  MSL_RT_UNCHECKED void operator()(Mailbox* box) const {
    uint mask = 0;
    for (uint lane = 0; lane < 32; ++lane) {
      if (is_active(box, lane) && get_slot<bool>(box, lane)) mask |= 1u << lane;
    }
    for (uint lane = 0; lane < 32; ++lane) set_slot(box, lane, mask);
  }

  MSL_RT_UNCHECKED void join_shadows(Mailbox* box) const {
    uint mask = 0;
    msl_rt::SlotShadow joined = {};
    for (uint lane = 0; lane < 32; ++lane) {
      if (!is_active(box, lane) || box->shadows[lane].bits[0] == 0) continue;
      mask |= 1u << lane;
      join_shadow(&joined, box->shadows[lane]);
    }
    __builtin_memcpy(joined.bits, &mask, sizeof(mask));
    for (uint lane = 0; lane < 32; ++lane) box->shadows[lane] = joined;
  }
};

MSL_INLINE uint ballot(bool value, Site site) {
  return meet<uint>(value, site, vote{}, own_slot{});
}

}  // namespace _impl

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
inline bool simd_any(bool expression, MSL_SITE) { return _impl::ballot(expression, site) != 0; }
inline bool simd_all(bool expression, MSL_SITE) { return _impl::ballot(!expression, site) == 0; }
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

namespace msl_rt {

template <>
inline constexpr uint32_t scalar_size<metal::bfloat> = 2;
template <typename T, int N>
inline constexpr uint32_t scalar_size<metal::vec<T, N>> = sizeof(T);
template <typename T, int N, typename V>
inline constexpr uint32_t scalar_size<metal::packed_vec<T, N, V>> = sizeof(T);

}  // namespace msl_rt
