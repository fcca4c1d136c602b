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

// *source, of device or threadgroup memory.
template <typename T>
__forceinline__ T loaded(const T* source) {
  if constexpr (moves_as_vectors<T>) {
    constexpr size_t bytes = vector_bytes<sizeof(T)>;
    if (is_aligned<bytes>(source)) {
      using Vector = typename mover<bytes>::type;
      struct Vectors {
        Vector at[sizeof(T) / bytes];
      } vectors;
#pragma unroll
      for (size_t i = 0; i < sizeof(T) / bytes; ++i) {
        vectors.at[i] = reinterpret_cast<const Vector*>(source)[i];
      }
      return __builtin_bit_cast(T, vectors);
    }
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

}  // namespace msl_rt
