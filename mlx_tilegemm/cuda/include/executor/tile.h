// This library's own helpers of fragments, lib/fragment of its templates, for tensor cores: pairs of
// rows of fragments are one operand, right operands come transposed from memory, and what was
// 16 bits wide is not split. The translation puts them in the place of the text's.
#pragma once

#include <mlx_prelude.h>

#if defined(MSL_RT_TILES)

namespace metal {

namespace _impl {

// What TF32 holds whole.
template <class T>
inline constexpr bool fits_tf32 = sizeof(T) == 1 || same<T, half> || same<T, bfloat>;

template <class Pointer>
struct element_of {};
template <class T>
struct element_of<T*> {
  using type = typename msl_rt::bare<T>::type;
};

template <class T>
struct pair_of {
  T at[2];
};

MSL_INLINE float2 floats_of(pair_of<half> pair) {
  return float2(static_cast<float>(pair.at[0]), static_cast<float>(pair.at[1]));
}
MSL_INLINE float2 floats_of(pair_of<bfloat> pair) {
  const uint bits = __builtin_bit_cast(uint, pair);
  return float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
template <class T>
MSL_INLINE float2 floats_of(pair_of<T> pair) {
  return float2(static_cast<float>(pair.at[0]), static_cast<float>(pair.at[1]));
}

// Two neighbours, those of columns that exist, as floats.
template <bool GUARD, class T, class Stride>
MSL_INLINE float2 load_neighbours(const T* at, Stride stride, bool row_valid, int columns) {
  if (stride == Stride(1) && (!GUARD || (row_valid && columns > 1))) {
    // Tiles in threadgroup memory have rows of whole vectors.
    __builtin_assume(
        !__isShared(at) || msl_rt::is_aligned<2 * sizeof(T)>(at));
    return floats_of(msl_rt::loaded(reinterpret_cast<const pair_of<T>*>(at)));
  }
  float2 elements = float2(0.0f, 0.0f);
  if (!GUARD || (row_valid && columns > 0)) elements.x = static_cast<float>(at[0]);
  if (!GUARD || (row_valid && columns > 1)) elements.y = static_cast<float>(at[stride]);
  return elements;
}

// A pair of an operand in TF32: what it holds of each number, and of what is left.
struct parts_of_pair {
  uint x, y, rest_x, rest_y;
};

MSL_INLINE parts_of_pair parts_of(float x, float y, bool exact) {
  if (exact) return {__float_as_uint(x), __float_as_uint(y), 0, 0};
  const uint leading_x = tf32(x), leading_y = tf32(y);
  return {leading_x, leading_y, tf32_rest(x, leading_x), tf32_rest(y, leading_y)};
}

// Of a left operand, a lane's neighbours of a row.
MSL_INLINE parts_of_pair left_parts(const simdgroup_matrix<float, 8>& a) {
  const vec<float, 2>& pair = a.thread_elements();
  return parts_of(pair[0], pair[1], a.fits_tf32());
}

// Of a right one, neighbours of a column.
MSL_INLINE parts_of_pair right_parts(const simdgroup_matrix<float, 8>& b) {
  if (b.has_columns()) {
    return parts_of(b.column_elements()[0], b.column_elements()[1], b.fits_tf32());
  }
  const vec<float, 2>& pair = b.thread_elements();
  const pair_of_floats c = transposed(pair[0], pair[1]);
  return parts_of(c.x, c.y, b.fits_tf32());
}

MSL_INLINE void add_to(simdgroup_matrix<float, 8>& sum, float x, float y) {
  const vec<float, 2> before = sum.thread_elements();
  sum.thread_elements() = vec<float, 2>(before[0] + x, before[1] + y);
}

// Sixteen rows of a sum, of all depth that one call has: tensor cores truncate while they add, so
// that what is longer adds up outside of them.
struct sum_of_rows {
  product_rows leading = {}, rests = {};

  MSL_INLINE void add(
      const parts_of_pair& upper, const parts_of_pair& lower, const parts_of_pair& b, bool a_exact,
      bool b_exact) {
    multiply_tf32(leading, upper.x, upper.y, lower.x, lower.y, b.x, b.y);
    if (!a_exact) {
      multiply_tf32(rests, upper.rest_x, upper.rest_y, lower.rest_x, lower.rest_y, b.x, b.y);
    }
    if (!b_exact) {
      multiply_tf32(rests, upper.x, upper.y, lower.x, lower.y, b.rest_x, b.rest_y);
    }
  }

  MSL_INLINE void add_to_both(
      simdgroup_matrix<float, 8>& upper, simdgroup_matrix<float, 8>& lower, bool exact) const {
    if (exact) {
      add_to(upper, leading.x, leading.y);
      add_to(lower, leading.z, leading.w);
    } else {
      add_to(upper, joined_parts(leading.x, rests.x), joined_parts(leading.y, rests.y));
      add_to(lower, joined_parts(leading.z, rests.z), joined_parts(leading.w, rests.w));
    }
  }

  // Of eight rows: the rests of the left operand have the other eight.
  MSL_INLINE void add(const parts_of_pair& a, const parts_of_pair& b, bool b_exact) {
    multiply_tf32(leading, a.x, a.y, a.rest_x, a.rest_y, b.x, b.y);
    if (!b_exact) multiply_tf32(rests, a.rest_x, a.rest_y, a.x, a.y, b.rest_x, b.rest_y);
  }

  MSL_INLINE void add_to_one(
      simdgroup_matrix<float, 8>& sum, bool a_exact, bool b_exact) const {
    if (a_exact && b_exact) {
      add_to(sum, leading.x, leading.y);
    } else if (b_exact) {
      add_to(sum, joined_parts(leading.x, leading.z), joined_parts(leading.y, leading.w));
    } else {
      add_to(
          sum, joined_parts(leading.x, leading.z + rests.x + rests.z),
          joined_parts(leading.y, leading.w + rests.y + rests.w));
    }
  }
};

}  // namespace _impl

template <template <int, int> class Tile, int ROWS, int COLUMNS, int DEPTH>
MSL_INLINE void tile_mma(
    Tile<ROWS, COLUMNS>& sum, Tile<ROWS, DEPTH>& left, Tile<DEPTH, COLUMNS>& right) {
  _impl::parts_of_pair a[ROWS][DEPTH];
  bool a_exact[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    a_exact[i] = true;
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      a[i][d] = _impl::left_parts(left.at[i][d]);
      a_exact[i] = a_exact[i] && left.at[i][d].fits_tf32();
    }
  }
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    _impl::parts_of_pair b[DEPTH];
    bool b_exact = true;
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      b[d] = _impl::right_parts(right.at[d][j]);
      b_exact = b_exact && right.at[d][j].fits_tf32();
    }
#pragma unroll
    for (int i = 0; i + 1 < ROWS; i += 2) {
      const bool both_exact = a_exact[i] && a_exact[i + 1];
      _impl::sum_of_rows rows;
#pragma unroll
      for (int d = 0; d < DEPTH; ++d) rows.add(a[i][d], a[i + 1][d], b[d], both_exact, b_exact);
      rows.add_to_both(sum.at[i][j], sum.at[i + 1][j], both_exact && b_exact);
    }
    if constexpr (ROWS % 2 == 1) {
      constexpr int last = ROWS - 1;
      _impl::sum_of_rows rows;
#pragma unroll
      for (int d = 0; d < DEPTH; ++d) rows.add(a[last][d], b[d], b_exact);
      rows.add_to_one(sum.at[last][j], a_exact[last], b_exact);
    }
  }
}

}  // namespace metal

#if defined(MSL_RT_ROWS)
#include "executor/rows.h"
#endif

namespace metal {

// `set_elements(tile, float2(float(x), float(y)))`.
template <class T>
MSL_INLINE void set_widened(simdgroup_matrix<float, 8>& tile, const T& x, const T& y) {
  const _impl::pair_of<T> pair = {x, y};
  const float2 elements = _impl::floats_of(pair);
  if constexpr (sizeof(T) == 2 && _impl::fits_tf32<T>) {
    const uint columns = _impl::transposed(__builtin_bit_cast(uint, pair));
    tile.set(
        elements, _impl::floats_of(__builtin_bit_cast(_impl::pair_of<T>, columns)), true, true);
  } else {
    tile.set(elements, elements, false, _impl::fits_tf32<T>);
  }
}

// `set_elements(tile, pair)`, where the pair was elements of a row, or zeros.
template <class T>
MSL_INLINE void set_widened(simdgroup_matrix<float, 8>& tile, float2 pair, const T*) {
  tile.set(pair, pair, false, _impl::fits_tf32<T>);
}

template <
    bool GUARD_ROWS, bool GUARD_COLUMNS, template <int, int> class Tile, int ROWS, int COLUMNS,
    typename Pointer, typename Stride>
MSL_INLINE void tile_load(
    Tile<ROWS, COLUMNS>& tile, Pointer source, Stride row_stride, Stride column_stride, int rows,
    int columns) {
  using T = typename _impl::element_of<Pointer>::type;
  constexpr bool guard = GUARD_ROWS || GUARD_COLUMNS;
  const int all = 1 << 30;
  // From the lane's place in a left operand to that in a right one, which is its mirror image.
  const uint lane = msl_rt::hardware_lane();
  const int turn = int(lane >> 2) - int(lane & 3u) * 2;
  const Pointer turned = source - Stride(turn) * row_stride + Stride(turn) * column_stride;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      const Stride offset = Stride(8 * i) * row_stride + Stride(8 * j) * column_stride;
      const int rows_left = GUARD_ROWS ? rows - 8 * i : all;
      const int columns_left = GUARD_COLUMNS ? columns - 8 * j : all;
      const float2 elements = _impl::load_neighbours<guard>(
          source + offset, column_stride, rows_left > 0, columns_left);
      float2 column_elements = float2(0.0f, 0.0f);
      // Rows of no stride are one row, of which no column is known.
      const bool has_columns = row_stride != Stride(0);
      if (has_columns) {
        column_elements = _impl::load_neighbours<guard>(
            turned + offset, row_stride, columns_left - turn > 0, rows_left + turn);
      }
      tile.at[i][j].set(elements, column_elements, has_columns, _impl::fits_tf32<T>);
#if defined(MSL_RT_ROWS)
      if constexpr (!guard && sizeof(T) == 2) {
        tile.at[i][j].set_pairs(_impl::pairs_of(source + offset, row_stride, column_stride));
      }
#endif
    }
  }
}

#if defined(MSL_RT_ROWS)

// As lib/rows_mma of the templates has it: two by two, of 16-bit numbers as they are.
template <template <int, int> class Tile, int COUNT, int COLUMNS, int DEPTH>
MSL_INLINE void rows_mma(
    Tile<1, COLUMNS> (&sums)[COUNT], Tile<1, DEPTH> (&left)[COUNT],
    Tile<DEPTH, COLUMNS>& right) {
  if constexpr (COUNT == 1) {
    tile_mma(sums[0], left[0], right);
  } else {
    static_assert(COUNT % 2 == 0, "rows are multiplied two by two");
#pragma unroll
    for (int i = 0; i < COUNT; i += 2) {
      _impl::two_rows_mma(sums[i], sums[i + 1], left[i], left[i + 1], right);
    }
  }
}

#endif

#if defined(MSL_RT_STAGES)

// Copies of tiles that go on in the background, until the next barrier of the threadgroup. As
// lib/stage of the templates has it.
template <
    int ROWS, int COLUMNS, int TILE_STRIDE, int THREADS, bool GUARD_ROWS, bool GUARD_COLUMNS,
    typename T>
MSL_INLINE void stage_tile(
    T* tile, const T* source, int source_stride, int rows, int columns, int thread_index) {
  constexpr int LENGTH = int(16 / sizeof(T));
  constexpr int RUNS = COLUMNS / LENGTH;
  constexpr int ALL = ROWS * RUNS;
  static_assert(TILE_STRIDE % LENGTH == 0, "rows of tiles are whole vectors");
  const bool aligned =
      msl_rt::is_aligned<16>(source) && (source_stride % LENGTH == 0 || ROWS == 1);
  if (aligned) {
    // Where threads are whole rows, a thread's rows are the same distance apart.
    constexpr bool whole = THREADS % RUNS == 0;
    const int first_row = thread_index / RUNS, first_column = thread_index % RUNS * LENGTH;
    const T* first_source = source + size_t(first_row) * size_t(source_stride) + first_column;
    T* first_target = tile + first_row * TILE_STRIDE + first_column;
#pragma unroll
    for (int first = 0; first < ALL; first += THREADS) {
      const int index = first + thread_index;
      if (ALL % THREADS != 0 && index >= ALL) break;
      const int row = whole ? first_row + first / RUNS : index / RUNS;
      const int column = whole ? first_column : index % RUNS * LENGTH;
      int valid = GUARD_ROWS && row >= rows ? 0 : LENGTH;
      if (GUARD_COLUMNS) valid = min(valid, max(columns - column, 0));
      const T* from = whole ? first_source + size_t(first / RUNS) * size_t(source_stride)
                            : source + size_t(row) * size_t(source_stride) + column;
      T* to = whole ? first_target + first / RUNS * TILE_STRIDE
                    : tile + row * TILE_STRIDE + column;
      msl_rt::copy_later(to, valid > 0 ? from : source, valid * int(sizeof(T)));
    }
  } else {
#pragma unroll 1
    for (int index = thread_index; index < ROWS * COLUMNS; index += THREADS) {
      const int row = index / COLUMNS, column = index % COLUMNS;
      const bool valid = (!GUARD_ROWS || row < rows) && (!GUARD_COLUMNS || column < columns);
      tile[row * TILE_STRIDE + column] =
          valid ? source[size_t(row) * size_t(source_stride) + column] : T(0);
    }
  }
}

#endif

}  // namespace metal

#endif
