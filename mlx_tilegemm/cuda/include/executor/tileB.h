// This library's own helpers of fragments, lib/fragment of its templates, for tensor cores: pairs of
// rows of fragments are one operand, right operands come transposed from memory, and what was
// 16 bits wide is not split. The translation puts them in the place of the text's.
#pragma once

#include <mlx_prelude.h>

#if defined(MSL_RT_TILES)

namespace metal {

namespace _impl {

// What a type's numbers are.
template <class T>
inline constexpr Numbers numbers_of = same<T, half> ? Numbers::halves
    : same<T, bfloat>                             ? Numbers::bfloats
    : sizeof(T) == 1                              ? Numbers::of_tf32
                                                  : Numbers::any;
template <class T>
inline constexpr bool is_pair_type = same<T, half> || same<T, bfloat>;

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

MSL_INLINE float2 floats_of(Numbers numbers, uint pair) {
  return numbers == Numbers::halves ? floats_of(__builtin_bit_cast(pair_of<half>, pair))
                                    : floats_of(__builtin_bit_cast(pair_of<bfloat>, pair));
}

// Two neighbours, those of columns that exist.
template <bool GUARD, class T, class Stride>
MSL_INLINE pair_of<T> load_neighbours(const T* at, Stride stride, bool row_valid, int columns) {
  if (stride == Stride(1) && (!GUARD || (row_valid && columns > 1))) {
    // Tiles in threadgroup memory have rows of whole vectors.
    __builtin_assume(
        !__isShared(at) || msl_rt::is_aligned<2 * sizeof(T)>(at));
    return msl_rt::loaded(reinterpret_cast<const pair_of<T>*>(at));
  }
  pair_of<T> pair = {T(0), T(0)};
  if (!GUARD || (row_valid && columns > 0)) pair.at[0] = at[0];
  if (!GUARD || (row_valid && columns > 1)) pair.at[1] = at[stride];
  return pair;
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

// Notes where a matrix lies in threadgroup memory, if it does, in pieces of 16 bytes.
template <class T, class Stride>
MSL_INLINE void set_place(Known& known, const T* first, Stride row_stride, Stride column_stride) {
  if (!__isShared(first)) return;
  known.staged = column_stride == Stride(1) ? Staged::rows
      : row_stride == Stride(1)             ? Staged::columns
                                            : Staged::no;
  known.address = uint(__cvta_generic_to_shared(first));
  known.pitch = uint(column_stride == Stride(1) ? row_stride : column_stride) * uint(sizeof(T));
}

// What all matrices of a tile are.
template <template <int, int> class Tile, int ROWS, int COLUMNS>
MSL_INLINE Numbers common_numbers(const Tile<ROWS, COLUMNS>& tile) {
  const Numbers first = tile.at[0][0].known().numbers;
  bool all = true;
  bool exact = true;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      all = all && tile.at[i][j].known().numbers == first;
      exact = exact && tile.at[i][j].known().numbers != Numbers::any;
    }
  }
  return all ? first : exact ? Numbers::of_tf32 : Numbers::any;
}

template <template <int, int> class Tile, int ROWS, int COLUMNS>
MSL_INLINE Staged common_staging(const Tile<ROWS, COLUMNS>& tile) {
  const Staged first = tile.at[0][0].known().staged;
  bool all = true;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) all = all && tile.at[i][j].known().staged == first;
  }
  return all ? first : Staged::no;
}

// Pairs of up to four 8x8 matrices in threadgroup memory, of which each lane names a row of eight
// numbers. They are read where they are multiplied, which in all texts is where they are loaded.
template <bool TRANSPOSED>
MSL_INLINE void load_matrices(uint (&pairs)[4], uint row) {
  if constexpr (TRANSPOSED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3]) : "r"(row) : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3]) : "r"(row) : "memory");
  }
}

template <bool TRANSPOSED, template <int, int> class Tile, int ROWS, int COLUMNS>
MSL_INLINE void load_staged(uint (&pairs)[ROWS][COLUMNS], const Tile<ROWS, COLUMNS>& tile) {
  constexpr int ALL = ROWS * COLUMNS;
  const uint lane = msl_rt::hardware_lane();
#pragma unroll
  for (int first = 0; first < ALL; first += 4) {
    const Known& start = tile.at[first / COLUMNS][first % COLUMNS].known();
    uint offset = 0;
#pragma unroll
    for (int i = 1; i < 4; ++i) {
      const int at = min(first + i, ALL - 1);
      const uint distance = tile.at[at / COLUMNS][at % COLUMNS].known().address - start.address;
      offset = lane / 8 == i ? distance : offset;
    }
    uint found[4];
    load_matrices<TRANSPOSED>(found, start.address + (offset + lane % 8 * start.pitch));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + i < ALL) pairs[(first + i) / COLUMNS][(first + i) % COLUMNS] = found[i];
    }
  }
}

// Pairs of a tile of 16-bit numbers: neighbours of a row of a left operand, of a column of a right one.
template <bool RIGHT, template <int, int> class Tile, int ROWS, int COLUMNS>
MSL_INLINE void find_pairs(uint (&pairs)[ROWS][COLUMNS], const Tile<ROWS, COLUMNS>& tile) {
  const Staged staged = common_staging(tile);
  if (staged == (RIGHT ? Staged::columns : Staged::rows)) {
    load_staged<false>(pairs, tile);
  } else if (staged == (RIGHT ? Staged::rows : Staged::columns)) {
    load_staged<true>(pairs, tile);
  } else {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        const Known& known = tile.at[i][j].known();
        pairs[i][j] = !RIGHT ? known.row_pair
            : known.has_columns ? known.column_pair
                                : transposed(known.row_pair);
      }
    }
  }
}

template <bool RIGHT, template <int, int> class Tile, int ROWS, int COLUMNS>
MSL_INLINE void find_parts(parts_of_pair (&parts)[ROWS][COLUMNS], const Tile<ROWS, COLUMNS>& tile) {
  const Numbers numbers = common_numbers(tile);
  if (numbers == Numbers::halves || numbers == Numbers::bfloats) {
    uint pairs[ROWS][COLUMNS];
    find_pairs<RIGHT>(pairs, tile);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        const float2 pair = floats_of(numbers, pairs[i][j]);
        parts[i][j] = parts_of(pair.x, pair.y, true);
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        const simdgroup_matrix<float, 8>& matrix = tile.at[i][j];
        const bool exact = numbers != Numbers::any;
        const vec<float, 2>& pair = matrix.thread_elements();
        if (!RIGHT) {
          parts[i][j] = parts_of(pair[0], pair[1], exact);
        } else if (matrix.known().has_columns) {
          parts[i][j] = parts_of(matrix.known().columns[0], matrix.known().columns[1], exact);
        } else {
          const pair_of_floats c = transposed(pair[0], pair[1]);
          parts[i][j] = parts_of(c.x, c.y, exact);
        }
      }
    }
  }
}

MSL_INLINE void add_to(simdgroup_matrix<float, 8>& sum, float x, float y) {
  const vec<float, 2> before = sum.thread_elements();
  sum.thread_elements() = vec<float, 2>(before[0] + x, before[1] + y);
}

// rows += [upper; lower] right, for a depth of eight or of sixteen 16-bit numbers.
template <Numbers NUMBERS>
MSL_INLINE void multiply_pairs(product_rows& rows, uint upper, uint lower, uint right) {
  if constexpr (NUMBERS == Numbers::halves) {
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

template <Numbers NUMBERS>
MSL_INLINE void multiply_pairs(
    product_rows& rows, uint upper, uint lower, uint next_upper, uint next_lower, uint right,
    uint next_right) {
  if constexpr (NUMBERS == Numbers::halves) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(rows.x), "+f"(rows.y), "+f"(rows.z), "+f"(rows.w)
        : "r"(upper), "r"(lower), "r"(next_upper), "r"(next_lower), "r"(right), "r"(next_right));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(rows.x), "+f"(rows.y), "+f"(rows.z), "+f"(rows.w)
        : "r"(upper), "r"(lower), "r"(next_upper), "r"(next_lower), "r"(right), "r"(next_right));
  }
}

// rows += [upper; lower] right of all depth.
template <Numbers NUMBERS, int DEPTH, int COLUMNS>
MSL_INLINE void multiply_pairs(
    product_rows& rows, const uint (&upper)[DEPTH], const uint (&lower)[DEPTH],
    const uint (&right)[DEPTH][COLUMNS], int column) {
#pragma unroll
  for (int d = 0; d + 1 < DEPTH; d += 2) {
    multiply_pairs<NUMBERS>(
        rows, upper[d], lower[d], upper[d + 1], lower[d + 1], right[d][column],
        right[d + 1][column]);
  }
  if constexpr (DEPTH % 2 == 1) {
    constexpr int last = DEPTH - 1;
    multiply_pairs<NUMBERS>(rows, upper[last], lower[last], right[last][column]);
  }
}

// Of two matrices, one above the other.
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

// Of 16-bit numbers of one type, as they are. Tensor cores add up, as in MLX's own products of such.
template <Numbers NUMBERS, template <int, int> class Tile, int ROWS, int COLUMNS, int DEPTH>
MSL_INLINE void multiply_alike(
    Tile<ROWS, COLUMNS>& sum, const Tile<ROWS, DEPTH>& left, const Tile<DEPTH, COLUMNS>& right) {
  uint a[ROWS][DEPTH], b[DEPTH][COLUMNS];
  find_pairs<false>(a, left);
  find_pairs<true>(b, right);
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
    for (int i = 0; i + 1 < ROWS; i += 2) {
      product_rows rows = rows_of(sum.at[i][j], sum.at[i + 1][j]);
      multiply_pairs<NUMBERS>(rows, a[i], a[i + 1], b, j);
      set_rows(sum.at[i][j], sum.at[i + 1][j], rows);
    }
    if constexpr (ROWS % 2 == 1) {
      const uint nothing[DEPTH] = {};
      product_rows rows = {};
      multiply_pairs<NUMBERS>(rows, a[ROWS - 1], nothing, b, j);
      add_to(sum.at[ROWS - 1][j], rows.x, rows.y);
    }
  }
}

// Of numbers that TF32 holds; likewise.
template <template <int, int> class Tile, int ROWS, int COLUMNS, int DEPTH>
MSL_INLINE void multiply_exact(
    Tile<ROWS, COLUMNS>& sum, const parts_of_pair (&a)[ROWS][DEPTH],
    const parts_of_pair (&b)[DEPTH][COLUMNS]) {
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
    for (int i = 0; i + 1 < ROWS; i += 2) {
      product_rows rows = rows_of(sum.at[i][j], sum.at[i + 1][j]);
#pragma unroll
      for (int d = 0; d < DEPTH; ++d) {
        const parts_of_pair &upper = a[i][d], &lower = a[i + 1][d];
        multiply_tf32(rows, upper.x, upper.y, lower.x, lower.y, b[d][j].x, b[d][j].y);
      }
      set_rows(sum.at[i][j], sum.at[i + 1][j], rows);
    }
    if constexpr (ROWS % 2 == 1) {
      product_rows rows = {};
#pragma unroll
      for (int d = 0; d < DEPTH; ++d) {
        multiply_tf32(rows, a[ROWS - 1][d].x, a[ROWS - 1][d].y, 0, 0, b[d][j].x, b[d][j].y);
      }
      add_to(sum.at[ROWS - 1][j], rows.x, rows.y);
    }
  }
}

// A pair of floats as three of bfloat, which hold all their bits.
struct bfloat_parts {
  uint leading, middle, last;
};

MSL_INLINE uint upper_halves(float x, float y) {
  return __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
}

MSL_INLINE float without_upper_half(float x) {
  return x - __uint_as_float(__float_as_uint(x) & 0xffff0000u);
}

MSL_INLINE bfloat_parts bfloat_parts_of(float x, float y) {
  const float rest_x = without_upper_half(x), rest_y = without_upper_half(y);
  return {upper_halves(x, y), upper_halves(rest_x, rest_y),
          upper_halves(without_upper_half(rest_x), without_upper_half(rest_y))};
}

// Of any floats with numbers of bfloat.
template <template <int, int> class Tile, int ROWS, int COLUMNS, int DEPTH>
MSL_INLINE void multiply_with_bfloats(
    Tile<ROWS, COLUMNS>& sum, const Tile<ROWS, DEPTH>& left, const Tile<DEPTH, COLUMNS>& right) {
  uint leading[ROWS][DEPTH], middle[ROWS][DEPTH], last[ROWS][DEPTH], b[DEPTH][COLUMNS];
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      const vec<float, 2>& pair = left.at[i][d].thread_elements();
      const bfloat_parts parts = bfloat_parts_of(pair[0], pair[1]);
      leading[i][d] = parts.leading;
      middle[i][d] = parts.middle;
      last[i][d] = parts.last;
    }
  }
  find_pairs<true>(b, right);
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
    for (int i = 0; i + 1 < ROWS; i += 2) {
      product_rows first = {}, rests = {};
      multiply_pairs<Numbers::bfloats>(first, leading[i], leading[i + 1], b, j);
      multiply_pairs<Numbers::bfloats>(rests, middle[i], middle[i + 1], b, j);
      multiply_pairs<Numbers::bfloats>(rests, last[i], last[i + 1], b, j);
      add_to(sum.at[i][j], joined_parts(first.x, rests.x), joined_parts(first.y, rests.y));
      add_to(sum.at[i + 1][j], joined_parts(first.z, rests.z), joined_parts(first.w, rests.w));
    }
    if constexpr (ROWS % 2 == 1) {
      constexpr int row = ROWS - 1;
      uint nothing[DEPTH] = {};
      product_rows first = {}, rests = {};
      multiply_pairs<Numbers::bfloats>(first, leading[row], middle[row], b, j);
      multiply_pairs<Numbers::bfloats>(rests, last[row], nothing, b, j);
      add_to(
          sum.at[row][j], joined_parts(first.x, first.z + rests.x),
          joined_parts(first.y, first.w + rests.y));
    }
  }
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
      simdgroup_matrix<float, 8>& upper, simdgroup_matrix<float, 8>& lower) const {
    add_to(upper, joined_parts(leading.x, rests.x), joined_parts(leading.y, rests.y));
    add_to(lower, joined_parts(leading.z, rests.z), joined_parts(leading.w, rests.w));
  }

  // Of eight rows: the rests of the left operand have the other eight.
  MSL_INLINE void add(const parts_of_pair& a, const parts_of_pair& b, bool b_exact) {
    multiply_tf32(leading, a.x, a.y, a.rest_x, a.rest_y, b.x, b.y);
    if (!b_exact) multiply_tf32(rests, a.rest_x, a.rest_y, a.x, a.y, b.rest_x, b.rest_y);
  }

  MSL_INLINE void add_to_one(simdgroup_matrix<float, 8>& sum, bool b_exact) const {
    if (b_exact) {
      add_to(sum, joined_parts(leading.x, leading.z), joined_parts(leading.y, leading.w));
    } else {
      add_to(
          sum, joined_parts(leading.x, leading.z + rests.x + rests.z),
          joined_parts(leading.y, leading.w + rests.y + rests.w));
    }
  }
};

template <template <int, int> class Tile, int ROWS, int COLUMNS, int DEPTH>
MSL_INLINE void multiply_parts(
    Tile<ROWS, COLUMNS>& sum, const parts_of_pair (&a)[ROWS][DEPTH],
    const parts_of_pair (&b)[DEPTH][COLUMNS], bool a_exact, bool b_exact) {
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
    for (int i = 0; i + 1 < ROWS; i += 2) {
      sum_of_rows rows;
#pragma unroll
      for (int d = 0; d < DEPTH; ++d) rows.add(a[i][d], a[i + 1][d], b[d][j], a_exact, b_exact);
      rows.add_to_both(sum.at[i][j], sum.at[i + 1][j]);
    }
    if constexpr (ROWS % 2 == 1) {
      sum_of_rows rows;
#pragma unroll
      for (int d = 0; d < DEPTH; ++d) rows.add(a[ROWS - 1][d], b[d][j], b_exact);
      rows.add_to_one(sum.at[ROWS - 1][j], b_exact);
    }
  }
}

}  // namespace _impl

template <template <int, int> class Tile, int ROWS, int COLUMNS, int DEPTH>
MSL_INLINE void tile_mma(
    Tile<ROWS, COLUMNS>& sum, Tile<ROWS, DEPTH>& left, Tile<DEPTH, COLUMNS>& right) {
  using _impl::Numbers;
  const Numbers of_left = _impl::common_numbers(left), of_right = _impl::common_numbers(right);
  if (of_left == Numbers::halves && of_right == Numbers::halves) {
    _impl::multiply_alike<Numbers::halves>(sum, left, right);
  } else if (of_left == Numbers::bfloats && of_right == Numbers::bfloats) {
    _impl::multiply_alike<Numbers::bfloats>(sum, left, right);
  } else if (of_left == Numbers::any && of_right == Numbers::bfloats) {
    _impl::multiply_with_bfloats(sum, left, right);
  } else {
    _impl::parts_of_pair a[ROWS][DEPTH], b[DEPTH][COLUMNS];
    _impl::find_parts<false>(a, left);
    _impl::find_parts<true>(b, right);
    if (of_left != Numbers::any && of_right != Numbers::any) {
      _impl::multiply_exact<Tile>(sum, a, b);
    } else {
      _impl::multiply_parts<Tile>(
          sum, a, b, of_left != Numbers::any, of_right != Numbers::any);
    }
  }
}

#if defined(MSL_RT_ROWS)

// As lib/rows_mma of the templates has it: rows two by two.
template <template <int, int> class Tile, int COUNT, int COLUMNS, int DEPTH>
MSL_INLINE void rows_mma(
    Tile<1, COLUMNS> (&sums)[COUNT], Tile<1, DEPTH> (&left)[COUNT],
    Tile<DEPTH, COLUMNS>& right) {
  Tile<COUNT, COLUMNS> sum;
  Tile<COUNT, DEPTH> rows;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) sum.at[i][j] = sums[i].at[0][j];
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) rows.at[i][d] = left[i].at[0][d];
  }
  tile_mma(sum, rows, right);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) sums[i].at[0][j] = sum.at[i][j];
  }
}

#endif

// `set_elements(tile, float2(float(x), float(y)))`.
template <class T>
MSL_INLINE void set_widened(simdgroup_matrix<float, 8>& tile, const T& x, const T& y) {
  const _impl::pair_of<T> pair = {x, y};
  _impl::Known known;
  known.numbers = _impl::numbers_of<T>;
  if constexpr (_impl::is_pair_type<T>) known.row_pair = __builtin_bit_cast(uint, pair);
  tile.set(_impl::floats_of(pair), known);
}

// `set_elements(tile, pair)`, where the pair was elements of a row, or zeros.
template <class T>
MSL_INLINE void set_widened(simdgroup_matrix<float, 8>& tile, float2 pair, const T*) {
  _impl::Known known;
  known.numbers = _impl::numbers_of<T>;
  if constexpr (_impl::is_pair_type<T>) {
    const _impl::pair_of<T> narrow = {static_cast<T>(pair.x), static_cast<T>(pair.y)};
    known.row_pair = __builtin_bit_cast(uint, narrow);
  }
  tile.set(pair, known);
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
  const Stride place_in_fragment =
      Stride(lane >> 2) * row_stride + Stride((lane & 3u) * 2u) * column_stride;
  const Pointer turned = source - Stride(turn) * row_stride + Stride(turn) * column_stride;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      const Stride offset = Stride(8 * i) * row_stride + Stride(8 * j) * column_stride;
      const int rows_left = GUARD_ROWS ? rows - 8 * i : all;
      const int columns_left = GUARD_COLUMNS ? columns - 8 * j : all;
      const _impl::pair_of<T> row_pair = _impl::load_neighbours<guard>(
          source + offset, column_stride, rows_left > 0, columns_left);
      _impl::pair_of<T> column_pair = {T(0), T(0)};
      // Rows of no stride are one row, of which no column is known.
      const bool has_columns = row_stride != Stride(0);
      if (has_columns) {
        column_pair = _impl::load_neighbours<guard>(
            turned + offset, row_stride, columns_left - turn > 0, rows_left + turn);
      }
      _impl::Known known;
      known.numbers = _impl::numbers_of<T>;
      known.has_columns = has_columns;
      if constexpr (_impl::is_pair_type<T>) {
        known.row_pair = __builtin_bit_cast(uint, row_pair);
        known.column_pair = __builtin_bit_cast(uint, column_pair);
        if (!guard && has_columns) {
          _impl::set_place(known, source - place_in_fragment + offset, row_stride, column_stride);
        }
      } else {
        known.columns = _impl::floats_of(column_pair);
      }
      tile.at[i][j].set(_impl::floats_of(row_pair), known);
    }
  }
}

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
#pragma unroll
    for (int first = 0; first < ALL; first += THREADS) {
      const int index = first + thread_index;
      if (ALL % THREADS != 0 && index >= ALL) break;
      const int row = index / RUNS, column = index % RUNS * LENGTH;
      int valid = GUARD_ROWS && row >= rows ? 0 : LENGTH;
      if (GUARD_COLUMNS) valid = min(valid, max(columns - column, 0));
      const T* from = source + size_t(valid > 0 ? row : 0) * size_t(source_stride) +
          (valid > 0 ? column : 0);
      msl_rt::copy_later(tile + row * TILE_STRIDE + column, from, valid * int(sizeof(T)));
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
