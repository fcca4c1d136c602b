// 8x8 matrices. Mesa has no instruction for their product; two additions of 64-bit integers stand in
// for it, which have the same operands and the same liveness, in aligned pairs of registers. Where
// operands are narrower, the first of the two is a multiplication of each element, which like the
// real instruction reads them as they are.
#pragma once

typedef float agx_float2 __attribute__((ext_vector_type(2)));
extern "C" {
AGX_LANES ulong nir_iadd__64(ulong, ulong);
AGX_PURE ulong nir_pack_64_2x32(agx_float2);
AGX_PURE agx_float2 nir_unpack_64_2x32(ulong);
}

namespace metal {
template <typename T, int COLUMNS, int ROWS>
struct simdgroup_matrix {
  static_assert(COLUMNS == 8 && ROWS == 8, "Only 8x8 matrices are known.");
  // A lane's own two elements.
  typedef vec<T, 2> storage;
  storage own;
  simdgroup_matrix() = default;
  METAL_FUNC explicit simdgroup_matrix(T diagonal) : own(diagonal) {}
  METAL_FUNC __private storage& thread_elements() __private { return own; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;

template <typename T, int COLUMNS, int ROWS>
METAL_FUNC simdgroup_matrix<T, COLUMNS, ROWS> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, COLUMNS, ROWS> result;
  result.own = vec<T, 2>(value);
  return result;
}

// A sum of two pairs. The pairs are made by calls, because clang would take a cast into memory,
// where it splits a matrix that is accessed both whole and by element.
METAL_FUNC agx_float2 agx_sum(agx_float2 a, agx_float2 b) {
  return nir_unpack_64_2x32(nir_iadd__64(nir_pack_64_2x32(a), nir_pack_64_2x32(b)));
}

METAL_FUNC void simdgroup_multiply_accumulate(
    thread simdgroup_float8x8& d,
    thread simdgroup_float8x8& a,
    thread simdgroup_float8x8& b,
    thread simdgroup_float8x8& c) {
  d.own.elements = agx_sum(agx_sum(a.own.elements, b.own.elements), c.own.elements);
}

template <typename D, typename A, typename B, typename C>
METAL_FUNC void simdgroup_multiply_accumulate(
    thread simdgroup_matrix<D, 8, 8>& d,
    thread simdgroup_matrix<A, 8, 8>& a,
    thread simdgroup_matrix<B, 8, 8>& b,
    thread simdgroup_matrix<C, 8, 8>& c) {
  vec<float, 2> product;
  MLX_MTL_PRAGMA_UNROLL
  for (int i = 0; i < 2; ++i) {
    product[i] = float(a.own[i]) * float(b.own[i]);
  }
  const vec<float, 2> before(c.own);
  vec<float, 2> sum;
  sum.elements = agx_sum(product.elements, before.elements);
  d.own = vec<D, 2>(sum);
}

template <typename D, typename A, typename B>
METAL_FUNC void simdgroup_multiply(
    thread simdgroup_matrix<D, 8, 8>& d,
    thread simdgroup_matrix<A, 8, 8>& a,
    thread simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_matrix<D, 8, 8> zero(D(0));
  simdgroup_multiply_accumulate(d, a, b, zero);
}

// Loads and stores of a whole matrix: a lane's own two elements, which are neighbours in a row.
template <typename T, typename Pointer>
METAL_FUNC void simdgroup_load(
    thread simdgroup_matrix<T, 8, 8>& matrix,
    Pointer source,
    ulong stride = 8,
    ulong2 origin = ulong2(0, 0),
    bool transposed = false) {
  const uint lane = nir_load_subgroup_invocation();
  const ulong row = origin[1] + (lane / 4 & 4) + lane / 2 % 4;
  const ulong column = origin[0] + (lane / 4 & 2) * 2 + lane % 2 * 2;
  MLX_MTL_PRAGMA_UNROLL
  for (int i = 0; i < 2; ++i) {
    matrix.own[i] = source[transposed ? (column + i) * stride + row : row * stride + column + i];
  }
}

template <typename T, typename Pointer>
METAL_FUNC void simdgroup_store(
    thread simdgroup_matrix<T, 8, 8>& matrix,
    Pointer target,
    ulong stride = 8,
    ulong2 origin = ulong2(0, 0),
    bool transposed = false) {
  const uint lane = nir_load_subgroup_invocation();
  const ulong row = origin[1] + (lane / 4 & 4) + lane / 2 % 4;
  const ulong column = origin[0] + (lane / 4 & 2) * 2 + lane % 2 * 2;
  MLX_MTL_PRAGMA_UNROLL
  for (int i = 0; i < 2; ++i) {
    target[transposed ? (column + i) * stride + row : row * stride + column + i] = matrix.own[i];
  }
}
}  // namespace metal
