// What MLX's own prelude gives a kernel.
#pragma once

typedef half float16_t;
typedef bfloat bfloat16_t;

template <typename T>
struct WorkPerThread {
  static constexpr constant int n = 8 / sizeof(T);
};

template <typename T>
struct Limits {
  static constexpr constant T max = numeric_limits<T>::max();
  static constexpr constant T min = numeric_limits<T>::lowest();
  static constexpr constant T finite_max = numeric_limits<T>::max();
  static constexpr constant T finite_min = numeric_limits<T>::lowest();
};
template <>
struct Limits<float> {
  static constexpr constant float max = INFINITY;
  static constexpr constant float min = -INFINITY;
  static constexpr constant float finite_max = FLT_MAX;
  static constexpr constant float finite_min = -FLT_MAX;
};

// As floats, which are the same numbers: a constant of bfloat cannot be made of one here.
template <>
struct Limits<bfloat> {
  static constexpr constant float max = INFINITY;
  static constexpr constant float min = -INFINITY;
  static constexpr constant float finite_max = 0x1.fep127f;
  static constexpr constant float finite_min = -0x1.fep127f;
};

template <bool B, typename T, typename U>
struct ConditionalType : conditional<B, T, U> {};

struct complex64_t {
  float real, imag;
  complex64_t() = default;
  METAL_FUNC complex64_t(float real, float imag = 0.0f) : real(real), imag(imag) {}
};

template <typename T, typename U>
METAL_FUNC T ceildiv(T n, U m) {
  return (n + m - 1) / m;
}

template <typename I = int64_t>
METAL_FUNC I elem_to_loc(
    I element, constant const int* shape, constant const int64_t* strides, int dimensions) {
  I at = 0;
  for (int i = dimensions - 1; i >= 0 && element > 0; --i) {
    at += (element % shape[i]) * I(strides[i]);
    element /= shape[i];
  }
  return at;
}

// Which tile of BM rows is number `tile` where each group's rows, offsets[g] to offsets[g + 1], are
// cut into tiles; a lane looks at one group.
template <int BM>
METAL_FUNC bool schedule_row_tile(
    const device int32_t* offsets, const int num_groups, const int M, const int tile,
    const uint simd_lane_id, thread int& row, thread int& group, thread short& rows) {
  int before = 0;
  for (int first = 0; first < num_groups; first += 32) {
    const int g = first + simd_lane_id;
    const int start = g < num_groups ? offsets[g] : M;
    const int end = g + 1 < num_groups ? offsets[g + 1] : M;
    const int tiles = (end - start + BM - 1) / BM;
    const int through = before + simd_prefix_inclusive_sum(tiles);
    const ushort owner = ushort(simd_sum(int(through <= tile)));
    if (owner < 32) {
      group = first + owner;
      row = simd_shuffle(start, owner) + (tile - simd_shuffle(through - tiles, owner)) * BM;
      rows = short(min(BM, simd_shuffle(end, owner) - row));
      return true;
    }
    before = simd_shuffle(through, ushort(31));
  }
  return false;
}
