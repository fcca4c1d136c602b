// Neighbours that move at once. Metal texts give them the alignment of one, because an array may
// begin at any element; CUDA moves them as one vector where they lie on its boundary.
#pragma once

#include "executor/runtime.h"

namespace msl_rt {

template <size_t Bytes>
struct mover {};
template <>
struct mover<4> {
  using type = uint32_t;
};
template <>
struct mover<8> {
  using type = ::uint2;
};
template <>
struct mover<16> {
  using type = ::uint4;
};

template <size_t Bytes>
inline constexpr size_t vector_bytes = Bytes % 16 == 0 ? 16 : Bytes % 8 == 0 ? 8 : 4;

// Whether a T is worth it: more than one element, and whole vectors.
template <typename T>
inline constexpr bool moves_as_vectors = sizeof(T) % 4 == 0 && alignof(T) < vector_bytes<sizeof(T)>;

template <size_t Bytes>
__forceinline__ bool is_aligned(const volatile void* address) {
  return (reinterpret_cast<__UINTPTR_TYPE__>(address) & (Bytes - 1)) == 0;
}

// The `Words` words that begin at a byte of twice as many.
template <int Words>
__forceinline__ void shift_down(uint32_t (&words)[2 * Words], uint32_t bytes) {
#pragma unroll
  for (int step = Words / 2; step >= 1; step /= 2) {
    const bool skips = bytes & (4 * step);
#pragma unroll
    for (int i = 0; i < Words + step; ++i) words[i] = skips ? words[i + step] : words[i];
  }
#pragma unroll
  for (int i = 0; i < Words; ++i) {
    words[i] = __funnelshift_r(words[i], words[i + 1], 8 * (bytes & 3));
  }
}

// *source, of device or threadgroup memory. What lies across the boundary of a vector is taken out of
// two of them, without a branch: the loads of a step are then on their way together.
template <typename T>
__forceinline__ T loaded(const T* source) {
  if constexpr (moves_as_vectors<T>) {
    constexpr size_t bytes = vector_bytes<sizeof(T)>;
    constexpr int words = int(bytes / 4), vectors = int(sizeof(T) / bytes);
    using Vector = typename mover<bytes>::type;
    struct Words {
      uint32_t at[words];
    };
    struct All {
      Words at[vectors];
    } found;
    const uint32_t offset = reinterpret_cast<__UINTPTR_TYPE__>(source) & (bytes - 1);
    const char* begin = reinterpret_cast<const char*>(source) - offset;
    const Vector* first = reinterpret_cast<const Vector*>(begin);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      uint32_t both[2 * words];
      *reinterpret_cast<Words*>(both) = __builtin_bit_cast(Words, first[v]);
      Words next = {};
      if (offset != 0) next = __builtin_bit_cast(Words, first[v + 1]);
      *reinterpret_cast<Words*>(both + words) = next;
      shift_down<words>(both, offset);
      found.at[v] = *reinterpret_cast<Words*>(both);
    }
    return __builtin_bit_cast(T, found);
  }
  return *source;
}

// *target = value.
template <typename T>
__forceinline__ void store(T* target, const T& value) {
  if constexpr (moves_as_vectors<T>) {
    constexpr size_t bytes = vector_bytes<sizeof(T)>;
    if (is_aligned<bytes>(target)) {
      using Vector = typename mover<bytes>::type;
      struct Vectors {
        Vector at[sizeof(T) / bytes];
      };
      const Vectors vectors = __builtin_bit_cast(Vectors, value);
#pragma unroll
      for (size_t i = 0; i < sizeof(T) / bytes; ++i) {
        reinterpret_cast<Vector*>(target)[i] = vectors.at[i];
      }
      return;
    }
  }
  *target = value;
}

// 16 bytes from device to threadgroup memory, both aligned so; past the first `bytes` zeros.
__forceinline__ void copy_later(void* target, const void* source, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(target))),
               "l"(__cvta_generic_to_global(source)), "r"(bytes)
               : "memory");
}

}  // namespace msl_rt
