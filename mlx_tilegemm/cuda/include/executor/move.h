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

// A word of elements that are aligned as a `Unit`.
template <typename Unit>
__forceinline__ uint32_t word_at(const Unit* source) {
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < int(4 / sizeof(Unit)); ++i) {
    word |= uint32_t(source[i]) << (8 * sizeof(Unit) * i);
  }
  return word;
}

template <size_t Alignment>
struct unit {
  using type = uint32_t;
};
template <>
struct unit<1> {
  using type = unsigned char;
};
template <>
struct unit<2> {
  using type = uint16_t;
};

// *source, of device or threadgroup memory.
template <typename T>
__forceinline__ T loaded(const T* source) {
  if constexpr (moves_as_vectors<T>) {
    constexpr size_t bytes = vector_bytes<sizeof(T)>;
    constexpr int words = int(sizeof(T) / 4);
    struct Words {
      uint32_t at[words];
    } found;
    if (is_aligned<bytes>(source)) {
      using Vector = typename mover<bytes>::type;
      struct Vectors {
        Vector at[sizeof(T) / bytes];
      } vectors;
#pragma unroll
      for (size_t i = 0; i < sizeof(T) / bytes; ++i) {
        vectors.at[i] = reinterpret_cast<const Vector*>(source)[i];
      }
      found = __builtin_bit_cast(Words, vectors);
    } else {
      // A loop, which is a branch that the other case jumps over, and no array that is indexed.
      using Unit = typename unit<alignof(T)>::type;
#pragma unroll 1
      for (int i = 0; i < words; ++i) {
#pragma unroll
        for (int w = 0; w + 1 < words; ++w) found.at[w] = found.at[w + 1];
        found.at[words - 1] = word_at(reinterpret_cast<const Unit*>(source) + i * 4 / sizeof(Unit));
      }
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
