// Meetings of the lanes of a simdgroup, by shuffles. All lanes that have not ended must take part:
// CUDA has no meeting of those that happen to be here. Included by msl/simd.h.
#pragma once

#include "executor/runtime.h"

namespace metal {

namespace _impl {

// The value of a hardware lane, four bytes at a time.
template <class T>
MSL_INLINE T from_lane(const T& value, uint lane) {
  constexpr int words = (sizeof(T) + 3) / 4;
  uint sent[words] = {};
  __builtin_memcpy(sent, &value, sizeof(T));
#pragma unroll
  for (int i = 0; i < words; ++i) {
    sent[i] = __shfl_sync(msl_rt::full_mask, sent[i], lane);
  }
  T received;
  __builtin_memcpy(&received, sent, sizeof(T));
  return received;
}

// Of a lane that is not there Metal leaves the value undefined; here it is the lane's own.
template <class T>
MSL_INLINE T fetch(const T& value, uint from, Site) {
  const uint self = msl_rt::hardware_lane();
  return from_lane(value, from < 32 ? msl_rt::hardware_lane_of(from) : self);
}

// Lanes of the simdgroup that take part, by their hardware numbers.
MSL_INLINE uint taking_part() {
#if defined(MSL_RT_LANES_END)
  __syncwarp();
  return __activemask();
#else
  return msl_rt::full_mask;
#endif
}

// Each lane gets the result of its group of `Width`, in the order of a butterfly: neighbours first.
template <uint Width, class T, class Op>
MSL_INLINE T reduce_present(T value, uint active, Op op) {
  const uint first = msl_rt_lane() / Width * Width;
  T values[Width];
  bool present[Width];
#pragma unroll
  for (uint i = 0; i < Width; ++i) {
    const uint from = msl_rt::hardware_lane_of(first + i);
    values[i] = from_lane(value, from);
    present[i] = active >> from & 1u;
  }
#pragma unroll
  for (uint step = 1; step < Width; step *= 2) {
#pragma unroll
    for (uint i = 0; i + step < Width; i += 2 * step) {
      if (present[i] && present[i + step]) values[i] = op(values[i], values[i + step]);
      if (!present[i] && present[i + step]) values[i] = values[i + step];
      present[i] = present[i] || present[i + step];
    }
  }
  return values[0];
}

template <uint Width, class T, class Op>
MSL_INLINE T reduce_lanes(T value, Site, Op op) {
  const uint active = taking_part();
  if (active != msl_rt::full_mask) return reduce_present<Width>(value, active, op);
  const uint lane = msl_rt_lane();
#pragma unroll
  for (uint step = 1; step < Width; step *= 2) {
    const T other = from_lane(value, msl_rt::hardware_lane_of(lane ^ step));
    value = lane & step ? op(other, value) : op(value, other);
  }
  return value;
}

// Prefix results, in lane order.
template <uint Width, class T, class Op>
MSL_INLINE T scan_lanes(T value, Site, Op op, T start, bool inclusive) {
  const uint lane = msl_rt_lane();
  const uint active = taking_part();
  T running = start, before = start;
  for (uint i = 0; i < Width; ++i) {
    const uint from = msl_rt::hardware_lane_of(lane / Width * Width + i);
    const T other = from_lane(value, from);
    if (!(active >> from & 1u)) continue;
    if (lane % Width == i) before = running;
    running = static_cast<T>(op(running, other));
    if (lane % Width == i && inclusive) before = running;
  }
  return before;
}

MSL_INLINE bool any_lane(bool value, Site) {
  return (__ballot_sync(msl_rt::full_mask, value) & taking_part()) != 0;
}

// A bit for each lane that votes yes.
MSL_INLINE uint ballot(bool value, Site) {
  const uint votes = __ballot_sync(msl_rt::full_mask, value) & taking_part();
#if defined(MSL_RT_FRAGMENTS)
  uint metal_votes = 0;
#pragma unroll
  for (uint lane = 0; lane < 32; ++lane) {
    metal_votes |= (votes >> msl_rt::hardware_lane_of(lane) & 1u) << lane;
  }
  return metal_votes;
#else
  return votes;
#endif
}

}  // namespace _impl

}  // namespace metal
