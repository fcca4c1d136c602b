// Barriers and functions across lanes.
#pragma once

extern "C" {
AGX_LANES uint nir_shuffle(uint, uint);
AGX_LANES uint nir_shuffle_xor(uint, uint);
AGX_LANES uint nir_shuffle_up(uint, uint);
AGX_LANES uint nir_shuffle_down(uint, uint);
AGX_LANES ushort nir_shuffle__16(ushort, uint);
AGX_LANES ushort nir_shuffle_xor__16(ushort, uint);
AGX_LANES ushort nir_shuffle_up__16(ushort, uint);
AGX_LANES ushort nir_shuffle_down__16(ushort, uint);
}
__attribute__((convergent, nothrow)) void __spirv_ControlBarrier(uint, uint, uint);

namespace metal {
enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
METAL_FUNC mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
METAL_FUNC void threadgroup_barrier(mem_flags) { __spirv_ControlBarrier(2, 2, 0x110); }
METAL_FUNC void simdgroup_barrier(mem_flags) { __spirv_ControlBarrier(3, 3, 0x110); }

#define AGX_SHUFFLE(NAME, NIR)                                                            \
  template <typename T>                                                                   \
  METAL_FUNC T NAME(T value, ushort which) {                                              \
    if constexpr (sizeof(T) == 2) {                                                       \
      return as_type<T>(NIR##__16(as_type<ushort>(value), uint(which)));                  \
    } else {                                                                              \
      return as_type<T>(NIR(as_type<uint>(value), uint(which)));                          \
    }                                                                                     \
  }                                                                                       \
  template <typename T, int N>                                                            \
  METAL_FUNC vec<T, N> NAME(vec<T, N> value, ushort which) {                              \
    vec<T, N> result;                                                                     \
    MLX_MTL_PRAGMA_UNROLL for (int i = 0; i < N; ++i) result[i] = NAME(value[i], which);  \
    return result;                                                                        \
  }
AGX_SHUFFLE(simd_shuffle, nir_shuffle)
AGX_SHUFFLE(simd_broadcast, nir_shuffle)
AGX_SHUFFLE(simd_shuffle_xor, nir_shuffle_xor)
AGX_SHUFFLE(simd_shuffle_up, nir_shuffle_up)
AGX_SHUFFLE(simd_shuffle_down, nir_shuffle_down)
AGX_SHUFFLE(quad_shuffle_xor, nir_shuffle_xor)
AGX_SHUFFLE(quad_shuffle_down, nir_shuffle_down)
#undef AGX_SHUFFLE
template <typename T>
METAL_FUNC T simd_broadcast_first(T value) {
  return simd_broadcast(value, ushort(0));
}
}  // namespace metal

#define AGX_REDUCTION(T, KIND)                                                        \
  AGX_LANES T __spirv_GroupNonUniform##KIND(uint, int, T);
AGX_REDUCTION(float, FAdd)
AGX_REDUCTION(float, FMul)
AGX_REDUCTION(float, FMin)
AGX_REDUCTION(float, FMax)
AGX_REDUCTION(int, IAdd)
AGX_REDUCTION(uint, IAdd)
AGX_REDUCTION(int, SMin)
AGX_REDUCTION(int, SMax)
AGX_REDUCTION(uint, UMin)
AGX_REDUCTION(uint, UMax)
AGX_REDUCTION(uint, BitwiseAnd)
AGX_REDUCTION(uint, BitwiseOr)
AGX_REDUCTION(uint, BitwiseXor)
#undef AGX_REDUCTION

namespace metal {
// Scope 3 is the subgroup; 0 reduces, 1 and 2 are the inclusive and the exclusive scan.
#define AGX_ACROSS(NAME, T, KIND, WHICH) \
  METAL_FUNC T NAME(T value) { return __spirv_GroupNonUniform##KIND(3u, WHICH, value); }
AGX_ACROSS(simd_sum, float, FAdd, 0)
AGX_ACROSS(simd_sum, int, IAdd, 0)
AGX_ACROSS(simd_sum, uint, IAdd, 0)
AGX_ACROSS(simd_product, float, FMul, 0)
AGX_ACROSS(simd_min, float, FMin, 0)
AGX_ACROSS(simd_min, int, SMin, 0)
AGX_ACROSS(simd_min, uint, UMin, 0)
AGX_ACROSS(simd_max, float, FMax, 0)
AGX_ACROSS(simd_max, int, SMax, 0)
AGX_ACROSS(simd_max, uint, UMax, 0)
AGX_ACROSS(simd_and, uint, BitwiseAnd, 0)
AGX_ACROSS(simd_or, uint, BitwiseOr, 0)
AGX_ACROSS(simd_xor, uint, BitwiseXor, 0)
AGX_ACROSS(simd_prefix_inclusive_sum, float, FAdd, 1)
AGX_ACROSS(simd_prefix_inclusive_sum, int, IAdd, 1)
AGX_ACROSS(simd_prefix_inclusive_sum, uint, IAdd, 1)
AGX_ACROSS(simd_prefix_exclusive_sum, float, FAdd, 2)
AGX_ACROSS(simd_prefix_exclusive_sum, int, IAdd, 2)
AGX_ACROSS(simd_prefix_exclusive_sum, uint, IAdd, 2)
#undef AGX_ACROSS
METAL_FUNC half simd_sum(half v) { return half(simd_sum(float(v))); }
METAL_FUNC half simd_max(half v) { return half(simd_max(float(v))); }
METAL_FUNC half simd_min(half v) { return half(simd_min(float(v))); }
METAL_FUNC bool simd_any(bool v) { return simd_or(uint(v)) != 0; }
METAL_FUNC bool simd_all(bool v) { return simd_and(uint(v)) != 0; }
METAL_FUNC float quad_sum(float v) {
  v += quad_shuffle_xor(v, ushort(1));
  return v + quad_shuffle_xor(v, ushort(2));
}
}  // namespace metal
