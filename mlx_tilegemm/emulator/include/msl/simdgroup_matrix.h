// 8x8 matrices spread over the 32 lanes of a simdgroup: each lane holds two neighbours of a row.
#pragma once

#include "types.h"

namespace metal {

namespace _impl {

constexpr uint fragment_row(uint lane) { return (lane / 4 & 4) + lane / 2 % 4; }
constexpr uint fragment_column(uint lane) { return (lane / 4 & 2) * 2 + lane % 2 * 2; }

}  // namespace _impl

}  // namespace metal

#include "executor/fragment.h"

namespace metal {

using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <typename T, int Cols, int Rows = Cols>
MSL_INLINE simdgroup_matrix<T, Cols, Rows> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Cols, Rows> filled;
  filled.thread_elements() = vec<T, 2>(value);
  return filled;
}

template <typename T, int Cols, int Rows = Cols>
MSL_INLINE simdgroup_matrix<T, Cols, Rows> make_diagonal_simdgroup_matrix(T value) {
  return simdgroup_matrix<T, Cols, Rows>(value);
}

namespace _impl {

struct fragment_offsets {
  ulong first, second;
};

MSL_INLINE fragment_offsets locate_fragment(ulong stride, ulong2 origin, bool transpose) {
  const uint lane = msl_rt_lane();
  const ulong row = fragment_row(lane);
  const ulong column = fragment_column(lane);
  const ulong start = origin.y * stride + origin.x;
  if (transpose) return {start + column * stride + row, start + (column + 1) * stride + row};
  return {start + row * stride + column, start + row * stride + column + 1};
}

}  // namespace _impl

template <typename T, typename U, int Cols, int Rows>
MSL_INLINE void simdgroup_load(
    simdgroup_matrix<T, Cols, Rows>& d, const U* source, ulong elements_per_row = Cols,
    ulong2 matrix_origin = 0, bool transpose_matrix = false,
    msl_rt::Site site = msl_rt::Site::here()) {
  _impl::note_operands(source, elements_per_row, matrix_origin, transpose_matrix, false, site);
  const auto at = _impl::locate_fragment(elements_per_row, matrix_origin, transpose_matrix);
  d.thread_elements()[0] = static_cast<T>(source[at.first]);
  d.thread_elements()[1] = static_cast<T>(source[at.second]);
}

template <typename T, typename U, int Cols, int Rows>
MSL_INLINE void simdgroup_store(
    simdgroup_matrix<T, Cols, Rows> a, U* target, ulong elements_per_row = Cols,
    ulong2 matrix_origin = 0, bool transpose_matrix = false,
    msl_rt::Site site = msl_rt::Site::here()) {
  _impl::note_operands(target, elements_per_row, matrix_origin, transpose_matrix, true, site);
  _impl::check_marks(a.thread_elements(), "stored matrix", site);
  const auto at = _impl::locate_fragment(elements_per_row, matrix_origin, transpose_matrix);
  target[at.first] = static_cast<U>(a.thread_elements()[0]);
  target[at.second] = static_cast<U>(a.thread_elements()[1]);
}

template <typename D, typename A, typename B, typename C, int N>
MSL_INLINE void simdgroup_multiply_accumulate(
    simdgroup_matrix<D, N, N>& d, const simdgroup_matrix<A, N, N>& a,
    const simdgroup_matrix<B, N, N>& b, const simdgroup_matrix<C, N, N>& c,
    msl_rt::Site site = msl_rt::Site::here()) {
  if constexpr (_impl::same<D, C>) {
    if (&d == &c) {
      _impl::add_product(d, a, b, site);
      return;
    }
  }
  // d may be one of the operands.
  simdgroup_matrix<C, N, N> sum = c;
  _impl::add_product(sum, a, b, site);
  const vec<C, 2> elements = sum.thread_elements();
  d.thread_elements() = vec<D, 2>(static_cast<D>(elements[0]), static_cast<D>(elements[1]));
}

template <typename D, typename A, typename B, int N>
MSL_INLINE void simdgroup_multiply(
    simdgroup_matrix<D, N, N>& d, const simdgroup_matrix<A, N, N>& a,
    const simdgroup_matrix<B, N, N>& b, msl_rt::Site site = msl_rt::Site::here()) {
  simdgroup_multiply_accumulate(
      d, a, b, make_filled_simdgroup_matrix<float, N>(0.0f), site);
}

template <typename T, int N>
MSL_INLINE simdgroup_matrix<T, N, N> operator*(
    const simdgroup_matrix<T, N, N>& a, const simdgroup_matrix<T, N, N>& b) {
  simdgroup_matrix<T, N, N> product;
  simdgroup_multiply(product, a, b);
  return product;
}

}  // namespace metal
