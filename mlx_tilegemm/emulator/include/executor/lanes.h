// Meetings of the active lanes of a simdgroup: every lane leaves its operand in the mailbox and the
// last to come computes what all of them get. Included by msl/simd.h.
#pragma once

#include "runtime.h"

namespace metal {

namespace _impl {

using msl_rt::Mailbox;

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

MSL_INLINE bool any_lane(bool value, Site site) { return ballot(value, site) != 0; }

}  // namespace _impl

}  // namespace metal

namespace msl_rt {

template <>
inline constexpr uint32_t scalar_size<metal::bfloat> = 2;
template <typename T, int N>
inline constexpr uint32_t scalar_size<metal::vec<T, N>> = sizeof(T);
template <typename T, int N, typename V>
inline constexpr uint32_t scalar_size<metal::packed_vec<T, N, V>> = sizeof(T);

}  // namespace msl_rt
