// Declarations of what MLX puts before the text of every custom kernel.
#pragma once

#include <metal_stdlib>

using namespace metal;

typedef bfloat bfloat16_t;
typedef half float16_t;

uint16_t bfloat16_to_uint16(bfloat16_t);
bfloat16_t uint16_to_bfloat16(uint16_t);

// bfloat overloads of Metal's functions.
#define STRICT_BFLOAT_1(NAME) bfloat NAME(bfloat);
#define STRICT_BFLOAT_2(NAME) bfloat NAME(bfloat, bfloat);
#define STRICT_BFLOAT_3(NAME) bfloat NAME(bfloat, bfloat, bfloat);
#define STRICT_BFLOAT_MATH                                                                     \
  STRICT_BFLOAT_1(abs) STRICT_BFLOAT_1(acos) STRICT_BFLOAT_1(acosh) STRICT_BFLOAT_1(asin)      \
  STRICT_BFLOAT_1(asinh) STRICT_BFLOAT_1(atan) STRICT_BFLOAT_1(atanh) STRICT_BFLOAT_1(ceil)    \
  STRICT_BFLOAT_1(cos) STRICT_BFLOAT_1(cosh) STRICT_BFLOAT_1(cospi) STRICT_BFLOAT_1(exp)       \
  STRICT_BFLOAT_1(exp10) STRICT_BFLOAT_1(exp2) STRICT_BFLOAT_1(fabs) STRICT_BFLOAT_1(floor)    \
  STRICT_BFLOAT_1(fract) STRICT_BFLOAT_1(log) STRICT_BFLOAT_1(log10) STRICT_BFLOAT_1(log2)     \
  STRICT_BFLOAT_1(rint) STRICT_BFLOAT_1(round) STRICT_BFLOAT_1(rsqrt) STRICT_BFLOAT_1(sin)     \
  STRICT_BFLOAT_1(sinh) STRICT_BFLOAT_1(sinpi) STRICT_BFLOAT_1(sqrt) STRICT_BFLOAT_1(tan)      \
  STRICT_BFLOAT_1(tanh) STRICT_BFLOAT_1(tanpi) STRICT_BFLOAT_1(trunc) STRICT_BFLOAT_2(atan2)   \
  STRICT_BFLOAT_2(divide) STRICT_BFLOAT_2(fdim) STRICT_BFLOAT_2(fmax) STRICT_BFLOAT_2(fmin)    \
  STRICT_BFLOAT_2(fmod) STRICT_BFLOAT_2(max) STRICT_BFLOAT_2(min) STRICT_BFLOAT_2(nextafter)   \
  STRICT_BFLOAT_2(pow) STRICT_BFLOAT_2(powr) STRICT_BFLOAT_3(fma) STRICT_BFLOAT_3(fmax3)       \
  STRICT_BFLOAT_3(fmedian3) STRICT_BFLOAT_3(fmin3) STRICT_BFLOAT_3(max3)                       \
  STRICT_BFLOAT_3(median3) STRICT_BFLOAT_3(min3)                                               \
  bfloat frexp(bfloat, thread int&);                                                           \
  bfloat ldexp(bfloat, int);
namespace metal {
STRICT_BFLOAT_MATH
namespace fast {
STRICT_BFLOAT_MATH
}
namespace precise {
STRICT_BFLOAT_MATH
}
STRICT_BFLOAT_1(simd_max)
STRICT_BFLOAT_1(simd_min)
STRICT_BFLOAT_1(simd_prefix_exclusive_product)
STRICT_BFLOAT_1(simd_prefix_exclusive_sum)
STRICT_BFLOAT_1(simd_prefix_inclusive_product)
STRICT_BFLOAT_1(simd_prefix_inclusive_sum)
STRICT_BFLOAT_1(simd_product)
STRICT_BFLOAT_1(simd_sum)
STRICT_BFLOAT_1(simd_xor)
bfloat simd_broadcast(bfloat, ushort);
bfloat simd_shuffle(bfloat, ushort);
bfloat simd_shuffle_and_fill_down(bfloat, bfloat, ushort);
bfloat simd_shuffle_and_fill_down(bfloat, bfloat, ushort, ushort);
bfloat simd_shuffle_and_fill_up(bfloat, bfloat, ushort);
bfloat simd_shuffle_and_fill_up(bfloat, bfloat, ushort, ushort);
bfloat simd_shuffle_down(bfloat, ushort);
bfloat simd_shuffle_rotate_down(bfloat, ushort);
bfloat simd_shuffle_rotate_up(bfloat, ushort);
bfloat simd_shuffle_up(bfloat, ushort);
bfloat simd_shuffle_xor(bfloat, ushort);
}  // namespace metal
#undef STRICT_BFLOAT_MATH
#undef STRICT_BFLOAT_1
#undef STRICT_BFLOAT_2
#undef STRICT_BFLOAT_3

template <typename T>
struct complex_t;
template <typename T>
static constexpr constant bool is_complex_v = false;
template <typename T>
static constexpr constant bool is_complex_v<complex_t<T>> = true;
template <typename From, typename To>
static constexpr constant bool is_lane_convertible_v =
    is_convertible_v<From, To> || strict::kind_of<To>::value == strict::is_bfloat ||
    strict::kind_of<From>::value == strict::is_bfloat;

template <typename T>
struct complex_t {
  typedef T value_type;
  T real;
  T imag;
  complex_t() = default;
  constexpr complex_t(const complex_t&) = default;
  complex_t(const __constant complex_t&);
  complex_t& operator=(const complex_t&) = default;
  complex_t& operator=(const __constant complex_t&);
  constexpr complex_t(T re, T im) : real(re), imag(im) {}
  constexpr complex_t(T re, T im) __constant : real(re), imag(im) {}
  template <typename U, STRICT_IF(strict::is_scalar<U>::value)>
  complex_t(U);
  template <typename U, STRICT_IF(strict::is_scalar<U>::value)>
  operator U() const;
};
using complex32_t = complex_t<half>;
using complex64_t = complex_t<float>;
template <typename T>
complex_t<T> operator-(complex_t<T>);
template <typename T>
complex_t<T> operator+(complex_t<T>, complex_t<T>);
template <typename T>
complex_t<T> operator-(complex_t<T>, complex_t<T>);
template <typename T>
complex_t<T> operator*(complex_t<T>, complex_t<T>);
template <typename T>
complex_t<T> operator/(complex_t<T>, complex_t<T>);
template <typename T>
bool operator==(complex_t<T>, complex_t<T>);
template <typename T>
bool operator<(complex_t<T>, complex_t<T>);
template <typename T>
bool operator<=(complex_t<T>, complex_t<T>);
template <typename T>
bool operator>(complex_t<T>, complex_t<T>);
template <typename T>
bool operator>=(complex_t<T>, complex_t<T>);

#define MTL_CONST constant
static MTL_CONST constexpr int MAX_REDUCE_SPECIALIZED_DIMS = 4;
static MTL_CONST constexpr int REDUCE_N_READS = 4;
static MTL_CONST constexpr int REDUCE_N_WRITES = 4;
static MTL_CONST constexpr int SOFTMAX_N_READS = 4;
static MTL_CONST constexpr int RMS_N_READS = 4;
static MTL_CONST constexpr int RMS_LOOPED_LIMIT = 4096;
static MTL_CONST constexpr int CROSS_ENTROPY_N_READS = 4;
#define MLX_MTL_PRAGMA_UNROLL _Pragma("clang loop unroll(full)")

#define instantiate_kernel(name, func, ...)
#define instantiate_default_limit(type)
#define instantiate_float_limit(type)

namespace mlx {
struct os_log {
  constexpr os_log(constant char*, constant char*) constant {}
};
}  // namespace mlx

template <typename U>
struct WorkPerThread {
  static constexpr int constant n = 8 / sizeof(U);
};

template <typename U>
struct Limits {
  static constexpr constant U max = numeric_limits<U>::has_infinity
      ? numeric_limits<U>::infinity()
      : numeric_limits<U>::max();
  static constexpr constant U min = numeric_limits<U>::has_infinity
      ? U(-numeric_limits<U>::infinity())
      : numeric_limits<U>::min();
  static constexpr constant U finite_max = numeric_limits<U>::max();
  static constexpr constant U finite_min = numeric_limits<U>::lowest();
};

template <typename IdxT = int64_t>
IdxT elem_to_loc(IdxT elem, constant const int* shape, constant const int64_t* strides, int ndim);
template <typename IdxT = int64_t>
IdxT elem_to_loc(uint3 elem, constant const int* shape, constant const int64_t* strides, int ndim);
template <typename IdxT = int64_t>
IdxT elem_to_loc_1(uint elem, constant const int64_t& stride);
template <typename IdxT = int64_t>
IdxT elem_to_loc_2(uint2 elem, constant const int64_t* strides);
template <typename IdxT = int64_t>
IdxT elem_to_loc_3(uint3 elem, constant const int64_t* strides);
template <typename IdxT = int64_t>
vec<IdxT, 2> elem_to_loc_2_nd(uint3 elem, constant const int* shape,
                              constant const int64_t* a_strides, constant const int64_t* b_strides,
                              int ndim);
template <typename IdxT = int64_t>
vec<IdxT, 3> elem_to_loc_3_nd(uint3 elem, constant const int* shape,
                              constant const int64_t* a_strides, constant const int64_t* b_strides,
                              constant const int64_t* c_strides, int ndim);

template <int DIM, typename OffsetT = size_t, bool General = true>
struct LoopedElemToLoc {
  LoopedElemToLoc(int dim) thread;
  void next(const constant int* shape, const constant int64_t* strides) thread;
  void next(int n, const constant int* shape, const constant int64_t* strides) thread;
  OffsetT location() thread;
};

template <typename T, typename U>
T ceildiv(T, U);
float log1p(float);
bfloat16_t log1p(bfloat16_t);
complex64_t log1p(complex64_t);
float hypot(float, float);

#define STRICT_WIDE_LANES(TYPE)                                    \
  TYPE simd_shuffle(TYPE, uint16_t);                               \
  TYPE simd_shuffle_down(TYPE, uint16_t);                          \
  TYPE simd_shuffle_up(TYPE, uint16_t);                            \
  TYPE simd_shuffle_and_fill_up(TYPE, TYPE, uint16_t);
STRICT_WIDE_LANES(uint64_t)
STRICT_WIDE_LANES(int64_t)
STRICT_WIDE_LANES(bool)
STRICT_WIDE_LANES(complex64_t)
#undef STRICT_WIDE_LANES

template <bool condition, typename T, typename U>
struct ConditionalType {
  using type = U;
};
template <typename T, typename U>
struct ConditionalType<true, T, U> {
  using type = T;
};
template <typename U, typename T>
U cast_to(T);
template <int BM>
bool schedule_row_tile(const device int32_t* offsets, const int num_groups, const int M,
                       const int tile, const uint simd_lane_id, thread int& row, thread int& group,
                       thread short& rows);
