// The elements of a matrix that a lane holds, and products of matrices on tensor cores. Included by
// msl/simdgroup_matrix.h.
//
// Lanes are renumbered, so that the two neighbours which Metal gives a lane are those which CUDA
// gives it for the left operand and for the sum. The right operand is transposed.
#pragma once

#include "executor/runtime.h"

namespace metal {

#if defined(MSL_RT_ROWS)

namespace _impl {

enum class PairType { none, half, bfloat };

// Pieces of eight numbers, each in one place of threadgroup memory, that a matrix consists of.
enum class Pieces { none, rows, columns };

// A matrix of 16-bit numbers as it was loaded: the lane's neighbours of a row, their first eight bits
// and their next ones as pairs of bfloat, which loops then need not find again, and where it lies.
struct Pairs {
  PairType type = PairType::none;
  uint row;
  uint leading, middle;
  Pieces pieces = Pieces::none;
  const void* own;
  uint before_own, pitch;
};

}  // namespace _impl

#endif

template <typename T, int Cols, int Rows = Cols>
struct simdgroup_matrix {
  static_assert(Cols == 8 && Rows == 8, "simdgroup_matrix is 8x8 only");
  using storage_type = vec<T, 2>;

  simdgroup_matrix() = default;

  // A diagonal matrix.
  MSL_INLINE explicit simdgroup_matrix(T value) {
    const uint lane = msl_rt_lane();
    const uint row = _impl::fragment_row(lane);
    const uint column = _impl::fragment_column(lane);
    elements_[0] = row == column ? value : T(0);
    elements_[1] = row == column + 1 ? value : T(0);
  }

  MSL_INLINE storage_type& thread_elements() {
    forget();
    return elements_;
  }
  MSL_INLINE const storage_type& thread_elements() const { return elements_; }

#if defined(MSL_RT_TILES)
  // What else is known of it, all of it at compile time where loops are unrolled: the neighbours of
  // a column that a right operand needs, and whether TF32 holds the elements.
  MSL_INLINE void set(storage_type elements, storage_type columns, bool has_columns, bool fits) {
    elements_ = elements;
    columns_ = columns;
    has_columns_ = has_columns;
    fits_tf32_ = fits;
  }
  MSL_INLINE const storage_type& column_elements() const { return columns_; }
  MSL_INLINE bool has_columns() const { return has_columns_; }
  MSL_INLINE bool fits_tf32() const { return fits_tf32_; }
#endif
#if defined(MSL_RT_ROWS)
  MSL_INLINE void set_pairs(const _impl::Pairs& pairs) { pairs_ = pairs; }
  MSL_INLINE const _impl::Pairs& pairs() const { return pairs_; }
#endif

 private:
  storage_type elements_;
#if defined(MSL_RT_TILES)
  storage_type columns_;
  bool has_columns_ = false;
  bool fits_tf32_ = false;
#if defined(MSL_RT_ROWS)
  _impl::Pairs pairs_;
#endif

  MSL_INLINE void forget() {
    has_columns_ = fits_tf32_ = false;
#if defined(MSL_RT_ROWS)
    pairs_ = _impl::Pairs();
#endif
  }
#else
  MSL_INLINE void forget() {}
#endif
};

namespace _impl {

MSL_INLINE void note_operands(const volatile void*, ulong, ulong2, bool, bool, Site) {}

template <class T>
MSL_INLINE void check_marks(const vec<T, 2>&, const char*, Site) {}

struct pair_of_floats {
  float x, y;
};

// Of an 8x8 matrix of 16-bit numbers, each lane two neighbours of a row: the transpose, likewise.
MSL_INLINE uint transposed(uint pair) {
  uint result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

// Of floats, half a number at a time.
MSL_INLINE pair_of_floats transposed(float x, float y) {
  const uint a = __float_as_uint(x), b = __float_as_uint(y);
  const uint low = transposed(__byte_perm(a, b, 0x5410));
  const uint high = transposed(__byte_perm(a, b, 0x7632));
  return {__uint_as_float(__byte_perm(low, high, 0x5410)),
          __uint_as_float(__byte_perm(low, high, 0x7632))};
}

#if defined(MSL_RT_EXACT)

// In float32, in the order in which the emulator adds.
template <class T, class A, class B, int N>
MSL_INLINE void add_product(
    simdgroup_matrix<T, N, N>& sum, const simdgroup_matrix<A, N, N>& a,
    const simdgroup_matrix<B, N, N>& b, Site) {
  const float ax = float(a.thread_elements()[0]), ay = float(a.thread_elements()[1]);
  const float bx = float(b.thread_elements()[0]), by = float(b.thread_elements()[1]);
  float x = float(sum.thread_elements()[0]), y = float(sum.thread_elements()[1]);
  const uint lane = msl_rt::hardware_lane();
#pragma unroll
  for (uint k = 0; k < 8; ++k) {
    const uint left = (lane & ~3u) | k / 2;
    const uint right = k * 4 | (lane & 3u);
    const float factor = __shfl_sync(msl_rt::full_mask, k % 2 ? ay : ax, left);
    x = __fadd_rn(x, __fmul_rn(factor, __shfl_sync(msl_rt::full_mask, bx, right)));
    y = __fadd_rn(y, __fmul_rn(factor, __shfl_sync(msl_rt::full_mask, by, right)));
  }
  sum.thread_elements() = vec<T, 2>(static_cast<T>(x), static_cast<T>(y));
}

#else

// Rows 0 to 7 and 8 to 15 of a 16x8 result: (x, y) and (z, w).
struct product_rows {
  float x, y, z, w;
};

// The nearest number with 11 bits; towards zero where that would be infinite, and of a NaN.
MSL_INLINE uint tf32(float value) {
  const uint bits = __float_as_uint(value);
  const float lowest_to_overflow = __uint_as_float(0x7f7ff000u);
  return (bits + (::fabsf(value) < lowest_to_overflow ? 0x1000u : 0u)) & 0xffffe000u;
}

// What TF32 leaves of a finite number: 12 bits, of which tensor cores read 11.
MSL_INLINE uint tf32_rest(float value, uint rounded) {
  return __float_as_uint(value - __uint_as_float(rounded));
}

// rows += [upper; lower] right, for TF32. The depth is in an order of its own, in both operands.
MSL_INLINE void multiply_tf32(
    product_rows& rows, uint ux, uint uy, uint lx, uint ly, uint bx, uint by) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(rows.x), "+f"(rows.y), "+f"(rows.z), "+f"(rows.w)
      : "r"(ux), "r"(lx), "r"(uy), "r"(ly), "r"(bx), "r"(by));
}

// Without an infinity among the leading parts all parts are finite; with one, they say it all.
MSL_INLINE float joined_parts(float leading, float rest) {
  const float sum = leading + rest;
  return sum == sum ? sum : leading;
}

// a b of floats, each a leading part and a rest in TF32. Rows 0 to 7 are the products of two leading
// parts, then of two rests; rows 8 to 15 are those of one and the other.
MSL_INLINE pair_of_floats multiply_floats(pair_of_floats a, pair_of_floats b) {
  const pair_of_floats c = transposed(b.x, b.y);
  const uint ax = tf32(a.x), ay = tf32(a.y), bx = tf32(c.x), by = tf32(c.y);
  const uint rest_ax = tf32_rest(a.x, ax), rest_ay = tf32_rest(a.y, ay);
  product_rows leading = {}, rests = {};
  multiply_tf32(leading, ax, ay, rest_ax, rest_ay, bx, by);
  multiply_tf32(rests, rest_ax, rest_ay, ax, ay, tf32_rest(c.x, bx), tf32_rest(c.y, by));
  return {joined_parts(leading.x, leading.z + rests.x + rests.z),
          joined_parts(leading.y, leading.w + rests.y + rests.w)};
}

template <class T>
MSL_INLINE uint bits_of_pair(const vec<T, 2>& pair) {
  return __builtin_bit_cast(uint, pair);
}

// rows += [upper; lower] right, for pairs of 16-bit numbers, the right one's transposed.
template <class T>
MSL_INLINE void multiply_pairs(product_rows& rows, uint upper, uint lower, uint right) {
  if constexpr (same<T, half>) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(rows.x), "+f"(rows.y), "+f"(rows.z), "+f"(rows.w)
        : "r"(upper), "r"(lower), "r"(right));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(rows.x), "+f"(rows.y), "+f"(rows.z), "+f"(rows.w)
        : "r"(upper), "r"(lower), "r"(right));
  }
}

template <class A, class B>
MSL_INLINE pair_of_floats product_of(const vec<A, 2>& a, const vec<B, 2>& b) {
  if constexpr (same<A, B> && sizeof(A) == 2) {
    product_rows rows = {};
    multiply_pairs<A>(rows, bits_of_pair(a), 0, transposed(bits_of_pair(b)));
    return {rows.x, rows.y};
  } else {
    return multiply_floats(
        {static_cast<float>(a[0]), static_cast<float>(a[1])},
        {static_cast<float>(b[0]), static_cast<float>(b[1])});
  }
}

// sum += a * b. The sum is kept outside of the tensor cores, which truncate.
template <class T, class A, class B, int N>
MSL_INLINE void add_product(
    simdgroup_matrix<T, N, N>& sum, const simdgroup_matrix<A, N, N>& a,
    const simdgroup_matrix<B, N, N>& b, Site) {
  const pair_of_floats product = product_of(a.thread_elements(), b.thread_elements());
  vec<T, 2>& elements = sum.thread_elements();
  elements[0] = static_cast<T>(static_cast<float>(elements[0]) + product.x);
  elements[1] = static_cast<T>(static_cast<float>(elements[1]) + product.y);
}

#endif

}  // namespace _impl

}  // namespace metal
