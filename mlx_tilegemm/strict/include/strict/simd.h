// <metal_compute>, <metal_simdgroup>, <metal_quadgroup>: barriers and exchange between threads.
#pragma once

#include "math.h"

namespace metal {

enum class mem_flags {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16
};
mem_flags operator|(mem_flags, mem_flags);
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);

// Values of 8 to 32 bits and their vectors; bool, bfloat and 64 bits are not among them.
template <typename T>
struct is_lane_value {
  static constant constexpr const bool value = (strict::kind_of<T>::value == strict::is_integer ||
                                                strict::kind_of<T>::value == strict::is_float) &&
      sizeof(T) <= 4;
};
template <typename T, int N>
struct is_lane_value<vec<T, N>> {
  static constant constexpr const bool value = is_lane_value<T>::value;
};
template <typename T>
struct is_lane_integer {
  static constant constexpr const bool value =
      strict::kind_of<T>::value == strict::is_integer && sizeof(T) <= 4;
};
template <typename T, int N>
struct is_lane_integer<vec<T, N>> {
  static constant constexpr const bool value = is_lane_integer<T>::value;
};

#define STRICT_LANES(GROUP)                                                     \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_broadcast(T, ushort);                                               \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_broadcast_first(T);                                                 \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle(T, ushort);                                                 \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_up(T, ushort);                                              \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_down(T, ushort);                                            \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_xor(T, ushort);                                             \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_rotate_up(T, ushort);                                       \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_rotate_down(T, ushort);                                     \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_and_fill_up(T, T, ushort);                                  \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_and_fill_up(T, T, ushort, ushort);                          \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_and_fill_down(T, T, ushort);                                \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_shuffle_and_fill_down(T, T, ushort, ushort);                        \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_sum(T);                                                             \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_product(T);                                                         \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_min(T);                                                             \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_max(T);                                                             \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_prefix_inclusive_sum(T);                                            \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_prefix_exclusive_sum(T);                                            \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_prefix_inclusive_product(T);                                        \
  template <typename T, STRICT_IF(is_lane_value<T>::value)>                     \
  T GROUP##_prefix_exclusive_product(T);                                        \
  template <typename T, STRICT_IF(is_lane_integer<T>::value)>                   \
  T GROUP##_and(T);                                                             \
  template <typename T, STRICT_IF(is_lane_integer<T>::value)>                   \
  T GROUP##_or(T);                                                              \
  template <typename T, STRICT_IF(is_lane_integer<T>::value)>                   \
  T GROUP##_xor(T);                                                             \
  bool GROUP##_all(bool);                                                       \
  bool GROUP##_any(bool);                                                       \
  bool GROUP##_is_first();                                                      \
  bool GROUP##_is_helper_thread();                                              \
  struct GROUP##_vote {                                                         \
    explicit GROUP##_vote(ulong);                                               \
    explicit operator ulong() const;                                            \
    bool all() const;                                                           \
    bool any() const;                                                           \
    typedef ulong vote_t;                                                       \
                                                                                \
   private:                                                                     \
    ulong bits;                                                                 \
  };                                                                            \
  GROUP##_vote GROUP##_ballot(bool);                                            \
  GROUP##_vote GROUP##_active_threads_mask();
STRICT_LANES(simd)
STRICT_LANES(quad)
#undef STRICT_LANES

}  // namespace metal
