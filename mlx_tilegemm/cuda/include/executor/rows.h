// Sixteen rows of a product whose right operand lies in threadgroup memory as 16-bit numbers: eight
// rows of eight of them come to the lanes of a simdgroup at once, and are multiplied as they are
// where the left operand allows it. Included by tile.h.
#pragma once

#include <mlx_prelude.h>

namespace metal {

namespace _impl {

template <class T>
inline constexpr PairType pair_type = same<T, half> ? PairType::half
    : same<T, bfloat>                              ? PairType::bfloat
                                                   : PairType::none;

MSL_INLINE float2 floats_of(PairType type, uint pair) {
  return type == PairType::half ? floats_of(__builtin_bit_cast(pair_of<half>, pair))
                                : floats_of(__builtin_bit_cast(pair_of<bfloat>, pair));
}

// A pair of floats as three pairs of bfloat, which have all their bits: each has the next eight.
struct bfloat_parts {
  uint leading, middle, last;
};

MSL_INLINE uint upper_halves(float x, float y) {
  return __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
}

// What the upper half of its bits leaves of a number, without its sign. It is zero only where the
// number is, and no NaN, so that an infinity on the other side, or this one, stays one.
MSL_INLINE float size_of_rest(float x) {
  const float rest = x - __uint_as_float(__float_as_uint(x) & 0xffff0000u);
  return ::fmaxf(::fabsf(rest), ::fabsf(x) * 0x1p-30f);
}

MSL_INLINE bfloat_parts bfloat_parts_of(const vec<float, 2>& pair) {
  const float x = size_of_rest(pair[0]), y = size_of_rest(pair[1]);
  const uint leading = upper_halves(pair[0], pair[1]), signs = leading & 0x80008000u;
  return {leading, signs | upper_halves(x, y),
          signs | upper_halves(size_of_rest(x), size_of_rest(y))};
}

// What is known of a matrix of 16-bit numbers that is loaded from the lane's own element on.
template <class T, class Stride>
MSL_INLINE Pairs pairs_of(const T* own, Stride row_stride, Stride column_stride) {
  Pairs pairs;
  if (pair_type<T> == PairType::none || (row_stride != Stride(1) && column_stride != Stride(1))) {
    return pairs;
  }
  pairs.type = pair_type<T>;
  if (column_stride == Stride(1)) {
    __builtin_assume(!__isShared(own) || msl_rt::is_aligned<4>(own));
    pairs.row = msl_rt::loaded(reinterpret_cast<const uint*>(own));
    const bfloat_parts parts = bfloat_parts_of(floats_of(pairs.type, pairs.row));
    pairs.leading = parts.leading;
    pairs.middle = parts.middle;
  }
  if (__isShared(own) && row_stride != Stride(0)) {
    const uint lane = msl_rt::hardware_lane();
    const uint row = uint(sizeof(T)) * uint(row_stride);
    const uint column = uint(sizeof(T)) * uint(column_stride);
    pairs.pieces = column_stride == Stride(1) ? Pieces::rows : Pieces::columns;
    pairs.own = own;
    pairs.before_own = (lane >> 2) * row + (lane & 3u) * 2 * column;
    pairs.pitch = column_stride == Stride(1) ? row : column;
  }
  return pairs;
}

// What all matrices of a tile are.
template <template <int, int> class Tile, int ROWS, int COLUMNS>
MSL_INLINE Pairs common_pairs(const Tile<ROWS, COLUMNS>& tile) {
  Pairs common = tile.at[0][0].pairs();
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      const Pairs& pairs = tile.at[i][j].pairs();
      if (pairs.type != common.type) common.type = PairType::none;
      if (pairs.pieces != common.pieces) common.pieces = Pieces::none;
    }
  }
  return common;
}

// Neighbours of a column of each matrix of a right operand in threadgroup memory, four matrices at a
// time, each lane naming a piece, down the depth first: two of its registers are one operand. They
// are read where they are multiplied: no text writes there in between.
template <bool TRANSPOSED, template <int, int> class Tile, int ROWS, int COLUMNS>
MSL_INLINE void load_columns(uint (&pairs)[ROWS][COLUMNS], const Tile<ROWS, COLUMNS>& tile) {
  constexpr int ALL = ROWS * COLUMNS;
  const uint lane = msl_rt::hardware_lane();
#pragma unroll
  for (int first = 0; first < ALL; first += 4) {
    const Pairs& start = tile.at[first % ROWS][first / ROWS].pairs();
    uint offset = 0;
#pragma unroll
    for (int i = 1; i < 4; ++i) {
      const int at = min(first + i, ALL - 1);
      const Pairs& other = tile.at[at % ROWS][at / ROWS].pairs();
      const uint distance = uint(
          static_cast<const char*>(other.own) - static_cast<const char*>(start.own));
      offset = lane / 8 == i ? distance : offset;
    }
    const uint piece = uint(__cvta_generic_to_shared(start.own)) +
        (offset + lane % 8 * start.pitch - start.before_own);
    uint found[4];
    if constexpr (TRANSPOSED) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
          : "=r"(found[0]), "=r"(found[1]), "=r"(found[2]), "=r"(found[3]) : "r"(piece) : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
          : "=r"(found[0]), "=r"(found[1]), "=r"(found[2]), "=r"(found[3]) : "r"(piece) : "memory");
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + i < ALL) pairs[(first + i) % ROWS][(first + i) / ROWS] = found[i];
    }
  }
}

// rows += [upper; lower] right, for a depth of sixteen numbers.
template <class T>
MSL_INLINE void multiply_pairs(
    product_rows& rows, const uint* upper, const uint* lower, uint right, uint next_right) {
  if constexpr (same<T, half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(rows.x), "+f"(rows.y), "+f"(rows.z), "+f"(rows.w)
        : "r"(upper[0]), "r"(lower[0]), "r"(upper[1]), "r"(lower[1]), "r"(right), "r"(next_right));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(rows.x), "+f"(rows.y), "+f"(rows.z), "+f"(rows.w)
        : "r"(upper[0]), "r"(lower[0]), "r"(upper[1]), "r"(lower[1]), "r"(right), "r"(next_right));
  }
}

// Of all depth, for one column of matrices.
template <class T, int DEPTH, int COLUMNS>
MSL_INLINE void multiply_column(
    product_rows& rows, const uint (&upper)[DEPTH], const uint (&lower)[DEPTH],
    const uint (&right)[DEPTH][COLUMNS], int column) {
#pragma unroll
  for (int d = 0; d + 1 < DEPTH; d += 2) {
    multiply_pairs<T>(rows, upper + d, lower + d, right[d][column], right[d + 1][column]);
  }
  if constexpr (DEPTH % 2 == 1) {
    constexpr int last = DEPTH - 1;
    multiply_pairs<T>(rows, upper[last], lower[last], right[last][column]);
  }
}

MSL_INLINE product_rows rows_of(
    const simdgroup_matrix<float, 8>& upper, const simdgroup_matrix<float, 8>& lower) {
  const vec<float, 2>&first = upper.thread_elements(), &second = lower.thread_elements();
  return {first[0], first[1], second[0], second[1]};
}

MSL_INLINE void set_rows(
    simdgroup_matrix<float, 8>& upper, simdgroup_matrix<float, 8>& lower,
    const product_rows& rows) {
  upper.thread_elements() = vec<float, 2>(rows.x, rows.y);
  lower.thread_elements() = vec<float, 2>(rows.z, rows.w);
}

// Rows of the type of the right operand. Tensor cores add up, as in MLX's own products of such.
template <class T, template <int, int> class Tile, int COLUMNS, int DEPTH>
MSL_INLINE void add_alike(
    Tile<1, COLUMNS>& sum, Tile<1, COLUMNS>& next_sum, const Tile<1, DEPTH>& left,
    const Tile<1, DEPTH>& next_left, const uint (&right)[DEPTH][COLUMNS]) {
  uint upper[DEPTH], lower[DEPTH];
#pragma unroll
  for (int d = 0; d < DEPTH; ++d) {
    upper[d] = left.at[0][d].pairs().row;
    lower[d] = next_left.at[0][d].pairs().row;
  }
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    product_rows rows = rows_of(sum.at[0][j], next_sum.at[0][j]);
    multiply_column<T>(rows, upper, lower, right, j);
    set_rows(sum.at[0][j], next_sum.at[0][j], rows);
  }
}

// Rows of the other type of 16 bits: TF32 holds both, and tensor cores add up.
template <template <int, int> class Tile, int COLUMNS, int DEPTH>
MSL_INLINE void add_unlike(
    Tile<1, COLUMNS>& sum, Tile<1, COLUMNS>& next_sum, PairType left_type,
    const Tile<1, DEPTH>& left, const Tile<1, DEPTH>& next_left, PairType right_type,
    const uint (&right)[DEPTH][COLUMNS]) {
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    product_rows rows = rows_of(sum.at[0][j], next_sum.at[0][j]);
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      const float2 upper = floats_of(left_type, left.at[0][d].pairs().row);
      const float2 lower = floats_of(left_type, next_left.at[0][d].pairs().row);
      const float2 column = floats_of(right_type, right[d][j]);
      multiply_tf32(
          rows, __float_as_uint(upper.x), __float_as_uint(upper.y), __float_as_uint(lower.x),
          __float_as_uint(lower.y), __float_as_uint(column.x), __float_as_uint(column.y));
    }
    set_rows(sum.at[0][j], next_sum.at[0][j], rows);
  }
}

// Rows of half, with a right operand of bfloat: two parts of a left operand hold its eleven bits.
template <template <int, int> class Tile, int COLUMNS, int DEPTH>
MSL_INLINE void add_half_parts(
    Tile<1, COLUMNS>& sum, Tile<1, COLUMNS>& next_sum, const Tile<1, DEPTH>& left,
    const Tile<1, DEPTH>& next_left, const uint (&right)[DEPTH][COLUMNS]) {
  uint upper[2][DEPTH], lower[2][DEPTH];
#pragma unroll
  for (int d = 0; d < DEPTH; ++d) {
    const Pairs &first = left.at[0][d].pairs(), &second = next_left.at[0][d].pairs();
    upper[0][d] = first.middle, upper[1][d] = first.leading;
    lower[0][d] = second.middle, lower[1][d] = second.leading;
  }
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    product_rows rows = rows_of(sum.at[0][j], next_sum.at[0][j]);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      multiply_column<bfloat>(rows, upper[part], lower[part], right, j);
    }
    set_rows(sum.at[0][j], next_sum.at[0][j], rows);
  }
}

// Rows of floats, with a right operand of bfloat: the smallest parts first, because tensor cores
// truncate while they add.
template <template <int, int> class Tile, int COLUMNS, int DEPTH>
MSL_INLINE void add_bfloat_parts(
    Tile<1, COLUMNS>& sum, Tile<1, COLUMNS>& next_sum, const Tile<1, DEPTH>& left,
    const Tile<1, DEPTH>& next_left, const uint (&right)[DEPTH][COLUMNS]) {
  uint upper[3][DEPTH], lower[3][DEPTH];
#pragma unroll
  for (int d = 0; d < DEPTH; ++d) {
    const bfloat_parts first = bfloat_parts_of(left.at[0][d].thread_elements());
    const bfloat_parts second = bfloat_parts_of(next_left.at[0][d].thread_elements());
    upper[0][d] = first.last, upper[1][d] = first.middle, upper[2][d] = first.leading;
    lower[0][d] = second.last, lower[1][d] = second.middle, lower[2][d] = second.leading;
  }
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    product_rows rows = {};
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      multiply_column<bfloat>(rows, upper[part], lower[part], right, j);
    }
    add_to(sum.at[0][j], rows.x, rows.y);
    add_to(next_sum.at[0][j], rows.z, rows.w);
  }
}

// Rows of floats, with a right operand that TF32 holds.
template <template <int, int> class Tile, int COLUMNS, int DEPTH>
MSL_INLINE void add_parts(
    Tile<1, COLUMNS>& sum, Tile<1, COLUMNS>& next_sum, const Tile<1, DEPTH>& left,
    const Tile<1, DEPTH>& next_left, PairType right_type, const uint (&right)[DEPTH][COLUMNS]) {
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    sum_of_rows rows;
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      const float2 column = floats_of(right_type, right[d][j]);
      rows.add(
          left_parts(left.at[0][d]), left_parts(next_left.at[0][d]),
          parts_of(column.x, column.y, true), false, true);
    }
    rows.add_to_both(sum.at[0][j], next_sum.at[0][j], false);
  }
}

// As tile_mma has it.
template <template <int, int> class Tile, int COLUMNS, int DEPTH>
MSL_INLINE void add_tiles(
    Tile<1, COLUMNS>& sum, Tile<1, COLUMNS>& next_sum, const Tile<1, DEPTH>& left,
    const Tile<1, DEPTH>& next_left, Tile<DEPTH, COLUMNS>& right) {
  Tile<2, COLUMNS> sums;
  Tile<2, DEPTH> rows;
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    sums.at[0][j] = sum.at[0][j];
    sums.at[1][j] = next_sum.at[0][j];
  }
#pragma unroll
  for (int d = 0; d < DEPTH; ++d) {
    rows.at[0][d] = left.at[0][d];
    rows.at[1][d] = next_left.at[0][d];
  }
  tile_mma(sums, rows, right);
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    sum.at[0][j] = sums.at[0][j];
    next_sum.at[0][j] = sums.at[1][j];
  }
}

template <template <int, int> class Tile, int COLUMNS, int DEPTH>
MSL_INLINE void two_rows_mma(
    Tile<1, COLUMNS>& sum, Tile<1, COLUMNS>& next_sum, const Tile<1, DEPTH>& left,
    const Tile<1, DEPTH>& next_left, Tile<DEPTH, COLUMNS>& right) {
  const Pairs of_right = common_pairs(right);
  if (of_right.type == PairType::none || of_right.pieces == Pieces::none) {
    add_tiles(sum, next_sum, left, next_left, right);
    return;
  }
  uint columns[DEPTH][COLUMNS];
  if (of_right.pieces == Pieces::rows) {
    load_columns<true>(columns, right);
  } else {
    load_columns<false>(columns, right);
  }
  const PairType upper = common_pairs(left).type, lower = common_pairs(next_left).type;
  const PairType of_left = upper == lower ? upper : PairType::none;
  if (of_left == PairType::half && of_right.type == PairType::half) {
    add_alike<half>(sum, next_sum, left, next_left, columns);
  } else if (of_left == PairType::bfloat && of_right.type == PairType::bfloat) {
    add_alike<bfloat>(sum, next_sum, left, next_left, columns);
  } else if (of_left == PairType::half && of_right.type == PairType::bfloat) {
    add_half_parts(sum, next_sum, left, next_left, columns);
  } else if (of_left != PairType::none) {
    add_unlike(sum, next_sum, of_left, left, next_left, of_right.type, columns);
  } else if (of_right.type == PairType::bfloat) {
    add_bfloat_parts(sum, next_sum, left, next_left, columns);
  } else {
    add_parts(sum, next_sum, left, next_left, of_right.type, columns);
  }
}

}  // namespace _impl

}  // namespace metal
