// What MLX puts before the text of every custom kernel: the same names with the same meaning.
//
// MLX's 64-bit, bool and complex overloads of simd_shuffle* have no counterpart here, because the
// simd functions of these headers take any type.
#pragma once

#include <metal_logging>
#include <metal_stdlib>

// bfloat overloads of the math library: computed in float, rounded once.
namespace metal {

#define MSL_BFLOAT1(name) \
  MSL_INLINE bfloat name(bfloat x) { return bfloat(name(float(x))); }
#define MSL_BFLOAT2(name) \
  MSL_INLINE bfloat name(bfloat x, bfloat y) { return bfloat(name(float(x), float(y))); }
#define MSL_BFLOAT3(name)                               \
  MSL_INLINE bfloat name(bfloat x, bfloat y, bfloat z) {  \
    return bfloat(name(float(x), float(y), float(z)));  \
  }
#define MSL_EACH_BFLOAT1(M)                                                                   \
  M(abs) M(acos) M(acosh) M(asin) M(asinh) M(atan) M(atanh) M(ceil) M(cos) M(cosh) M(cospi)   \
  M(exp) M(exp10) M(exp2) M(fabs) M(floor) M(fract) M(log) M(log10) M(log2) M(rint) M(round)  \
  M(rsqrt) M(sin) M(sinh) M(sinpi) M(sqrt) M(tan) M(tanh) M(tanpi) M(trunc)
#define MSL_EACH_BFLOAT2(M) \
  M(atan2) M(divide) M(fmax) M(fmin) M(fmod) M(max) M(min) M(nextafter) M(pow) M(powr)
#define MSL_EACH_BFLOAT3(M) \
  M(fma) M(fmax3) M(fmedian3) M(fmin3) M(max3) M(median3) M(min3)

MSL_EACH_BFLOAT1(MSL_BFLOAT1)
MSL_EACH_BFLOAT2(MSL_BFLOAT2)
MSL_EACH_BFLOAT3(MSL_BFLOAT3)
MSL_INLINE bfloat fdim(bfloat x, bfloat y) { return x < y || x == y ? bfloat(0) : x - y; }
MSL_INLINE bfloat ldexp(bfloat x, int k) { return bfloat(ldexp(float(x), k)); }
MSL_INLINE bfloat frexp(bfloat x, int& exponent) { return bfloat(frexp(float(x), exponent)); }

// Repeated so that they take in the overloads above.
namespace fast {
MSL_EACH_BFLOAT1(MSL_USING)
MSL_EACH_BFLOAT2(MSL_USING)
MSL_EACH_BFLOAT3(MSL_USING)
using metal::fdim;
using metal::frexp;
using metal::ldexp;
}  // namespace fast
namespace precise {
MSL_EACH_BFLOAT1(MSL_USING)
MSL_EACH_BFLOAT2(MSL_USING)
MSL_EACH_BFLOAT3(MSL_USING)
using metal::fdim;
using metal::frexp;
using metal::ldexp;
}  // namespace precise

// Reductions and scans of bfloat run in float.
#define MSL_BFLOAT_SIMD(name)                                                        \
  inline bfloat name(bfloat data, msl_rt::Site site = msl_rt::Site::here()) {        \
    return bfloat(name(float(data), site));                                          \
  }
MSL_BFLOAT_SIMD(simd_max)
MSL_BFLOAT_SIMD(simd_min)
MSL_BFLOAT_SIMD(simd_product)
MSL_BFLOAT_SIMD(simd_sum)
MSL_BFLOAT_SIMD(simd_prefix_exclusive_product)
MSL_BFLOAT_SIMD(simd_prefix_exclusive_sum)
MSL_BFLOAT_SIMD(simd_prefix_inclusive_product)
MSL_BFLOAT_SIMD(simd_prefix_inclusive_sum)

#undef MSL_BFLOAT1
#undef MSL_BFLOAT2
#undef MSL_BFLOAT3
#undef MSL_EACH_BFLOAT1
#undef MSL_EACH_BFLOAT2
#undef MSL_EACH_BFLOAT3
#undef MSL_BFLOAT_SIMD

}  // namespace metal

namespace metal {
namespace _impl {

template <typename U, bool IsFloat>
struct mlx_limits {
  static constexpr U max = numeric_limits<U>::max();
  static constexpr U min = numeric_limits<U>::min();
  static constexpr U finite_max = max;
  static constexpr U finite_min = min;
};
template <typename U>
struct mlx_limits<U, true> {
  static constexpr U max = numeric_limits<U>::infinity();
  static constexpr U min = -numeric_limits<U>::infinity();
  static constexpr U finite_max = numeric_limits<U>::max();
  static constexpr U finite_min = numeric_limits<U>::lowest();
};

}  // namespace _impl
}  // namespace metal

MSL_TEXT_BEGIN

using namespace metal;

typedef bfloat bfloat16_t;
typedef half float16_t;

inline uint16_t bfloat16_to_uint16(const bfloat16_t x) { return as_type<uint16_t>(x); }
inline bfloat16_t uint16_to_bfloat16(const uint16_t x) { return as_type<bfloat16_t>(x); }

#define MTL_CONST
#define MLX_MTL_CONST static constexpr const
#define MLX_MTL_PRAGMA_UNROLL
#define instantiate_kernel(name, func, ...) \
  template [[host_name(name)]] [[kernel]] decltype(func<__VA_ARGS__>) func<__VA_ARGS__>;

static constexpr int MAX_REDUCE_SPECIALIZED_DIMS = 4;
static constexpr int REDUCE_N_READS = 4;
static constexpr int REDUCE_N_WRITES = 4;
static constexpr int SOFTMAX_N_READS = 4;
static constexpr int RMS_N_READS = 4;
static constexpr int RMS_LOOPED_LIMIT = 4096;
static constexpr int CROSS_ENTROPY_N_READS = 4;

namespace mlx {
using os_log = metal::os_log;
}  // namespace mlx

template <typename T>
struct complex_t;

template <typename T>
static constexpr bool is_complex_v = false;
template <typename T>
static constexpr bool is_complex_v<complex_t<T>> = true;

template <typename From, typename To>
static constexpr bool is_lane_convertible_v =
    is_convertible_v<From, To> ||
    (is_same_v<To, bfloat16_t> && is_convertible_v<From, float>) ||
    (is_same_v<From, bfloat16_t> && is_convertible_v<float, To>);

template <typename T>
struct complex_t {
  using value_type = T;

  T real;
  T imag;

  constexpr complex_t() : real(0), imag(0) {}
  constexpr complex_t(T real_, T imag_) : real(real_), imag(imag_) {}
  constexpr complex_t(vec<T, 2> v) : real(v.x), imag(v.y) {}
  template <typename U, enable_if_t<!is_complex_v<U> && is_lane_convertible_v<U, T>, int> = 0>
  constexpr complex_t(U x) : real(static_cast<T>(x)), imag(static_cast<T>(0)) {}
  template <typename U, enable_if_t<!is_same_v<U, T> && is_lane_convertible_v<U, T>, int> = 0>
  constexpr complex_t(complex_t<U> x)
      : real(static_cast<T>(x.real)), imag(static_cast<T>(x.imag)) {}

  constexpr operator vec<T, 2>() const { return vec<T, 2>(real, imag); }
  template <typename U, enable_if_t<!is_complex_v<U> && is_lane_convertible_v<T, U>, int> = 0>
  constexpr operator U() const {
    return static_cast<U>(real);
  }
};

using complex32_t = complex_t<half>;
using complex64_t = complex_t<float>;

template <typename T>
constexpr complex_t<T> operator-(complex_t<T> x) {
  return {-x.real, -x.imag};
}

// Ordered by the real part, then by the imaginary part.
template <typename T>
constexpr bool operator>(complex_t<T> a, complex_t<T> b) {
  return a.real == b.real ? a.imag > b.imag : a.real > b.real;
}
template <typename T>
constexpr bool operator>=(complex_t<T> a, complex_t<T> b) {
  return a.real == b.real ? a.imag >= b.imag : a.real > b.real;
}
template <typename T>
constexpr bool operator<(complex_t<T> a, complex_t<T> b) {
  return b > a;
}
template <typename T>
constexpr bool operator<=(complex_t<T> a, complex_t<T> b) {
  return b >= a;
}
template <typename T>
constexpr bool operator==(complex_t<T> a, complex_t<T> b) {
  return a.real == b.real && a.imag == b.imag;
}

template <typename T>
constexpr complex_t<T> operator+(complex_t<T> a, complex_t<T> b) {
  return {a.real + b.real, a.imag + b.imag};
}
template <typename T>
constexpr complex_t<T>& operator+=(complex_t<T>& a, complex_t<T> b) {
  return a = a + b;
}
template <typename T>
constexpr complex_t<T> operator-(complex_t<T> a, complex_t<T> b) {
  return {a.real - b.real, a.imag - b.imag};
}
template <typename T>
constexpr complex_t<T> operator*(complex_t<T> a, complex_t<T> b) {
  return {a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real};
}

// Divides by the larger component of b first, so that no square overflows.
template <typename T>
constexpr complex_t<T> operator/(complex_t<T> a, complex_t<T> b) {
  const float ar = a.real, ai = a.imag, br = b.real, bi = b.imag;
  if ((br < 0 ? -br : br) >= (bi < 0 ? -bi : bi)) {
    const float ratio = bi / br;
    const float divisor = br + bi * ratio;
    return {
        static_cast<T>((ar + ai * ratio) / divisor), static_cast<T>((ai - ar * ratio) / divisor)};
  }
  const float ratio = br / bi;
  const float divisor = bi + br * ratio;
  return {static_cast<T>((ar * ratio + ai) / divisor), static_cast<T>((ai * ratio - ar) / divisor)};
}

// Python's remainder, taken of each component by itself.
template <typename T>
constexpr complex_t<T> operator%(complex_t<T> a, complex_t<T> b) {
  const auto remainder = [](T x, T y) {
    const T rest = x - y * static_cast<int64_t>(x / y);
    return rest != 0 && (rest < 0) != (y < 0) ? static_cast<T>(rest + y) : rest;
  };
  return {remainder(a.real, b.real), remainder(a.imag, b.imag)};
}

#define MSL_COMPLEX_SCALAR                                                                  \
  template <typename T, typename U,                                                         \
            enable_if_t<!is_complex_v<U> && is_lane_convertible_v<U, T>, bool> = true>
MSL_COMPLEX_SCALAR constexpr complex_t<T> operator+(U a, complex_t<T> b) {
  return {static_cast<T>(a) + b.real, b.imag};
}
MSL_COMPLEX_SCALAR constexpr complex_t<T> operator+(complex_t<T> a, U b) {
  return {a.real + static_cast<T>(b), a.imag};
}
MSL_COMPLEX_SCALAR constexpr complex_t<T> operator-(U a, complex_t<T> b) {
  return {static_cast<T>(a) - b.real, -b.imag};
}
MSL_COMPLEX_SCALAR constexpr complex_t<T> operator-(complex_t<T> a, U b) {
  return {a.real - static_cast<T>(b), a.imag};
}
MSL_COMPLEX_SCALAR constexpr complex_t<T> operator/(U a, complex_t<T> b) {
  return complex_t<T>(a) / b;
}
#undef MSL_COMPLEX_SCALAR

template <typename U>
struct WorkPerThread {
  static_assert(sizeof(U) <= 8, "Type too large");
  static constexpr int n = 8 / sizeof(U);
};

// For a float `min` and `max` are the infinities.
template <typename U>
struct Limits : metal::_impl::mlx_limits<U, is_floating_point_v<U>> {};
template <typename T>
struct Limits<complex_t<T>> {
  static constexpr complex_t<T> max{numeric_limits<T>::infinity(), numeric_limits<T>::infinity()};
  static constexpr complex_t<T> min{-numeric_limits<T>::infinity(), -numeric_limits<T>::infinity()};
};

// Element index -> memory offset, for arrays of any strides.
template <typename IdxT = int64_t>
METAL_FUNC IdxT elem_to_loc(IdxT elem, const int* shape, const int64_t* strides, int ndim) {
  IdxT loc = 0;
  for (int i = ndim - 1; i >= 0 && elem > 0; --i) {
    loc += (elem % shape[i]) * IdxT(strides[i]);
    elem /= shape[i];
  }
  return loc;
}

// x runs along the last axis, y along the one before, z over all others.
template <typename IdxT = int64_t>
METAL_FUNC IdxT elem_to_loc(uint3 elem, const int* shape, const int64_t* strides, int ndim) {
  IdxT loc = elem.x * IdxT(strides[ndim - 1]) + elem.y * IdxT(strides[ndim - 2]);
  for (int d = ndim - 3; d >= 0; --d) {
    loc += (elem.z % shape[d]) * IdxT(strides[d]);
    elem.z /= shape[d];
  }
  return loc;
}

template <typename IdxT = int64_t>
METAL_FUNC IdxT elem_to_loc_1(uint elem, const int64_t& stride) {
  return elem * IdxT(stride);
}
template <typename IdxT = int64_t>
METAL_FUNC IdxT elem_to_loc_2(uint2 elem, const int64_t* strides) {
  return elem.x * IdxT(strides[1]) + elem.y * IdxT(strides[0]);
}
template <typename IdxT = int64_t>
METAL_FUNC IdxT elem_to_loc_3(uint3 elem, const int64_t* strides) {
  return elem.x * IdxT(strides[2]) + elem.y * IdxT(strides[1]) + elem.z * IdxT(strides[0]);
}
template <typename IdxT = int64_t>
METAL_FUNC vec<IdxT, 2> elem_to_loc_2_nd(
    uint3 elem, const int* shape, const int64_t* a_strides, const int64_t* b_strides, int ndim) {
  return vec<IdxT, 2>(
      elem_to_loc<IdxT>(elem, shape, a_strides, ndim),
      elem_to_loc<IdxT>(elem, shape, b_strides, ndim));
}
template <typename IdxT = int64_t>
METAL_FUNC vec<IdxT, 3> elem_to_loc_3_nd(
    uint3 elem, const int* shape, const int64_t* a_strides, const int64_t* b_strides,
    const int64_t* c_strides, int ndim) {
  return vec<IdxT, 3>(
      elem_to_loc<IdxT>(elem, shape, a_strides, ndim),
      elem_to_loc<IdxT>(elem, shape, b_strides, ndim),
      elem_to_loc<IdxT>(elem, shape, c_strides, ndim));
}

// Walks a strided array in row-major order: next() steps, location() is the offset.
template <int DIM, typename OffsetT = size_t, bool General = true>
struct LoopedElemToLoc {
  int dim;
  LoopedElemToLoc<DIM - 1, OffsetT, General> inner_looper;
  OffsetT offset{0};
  int index{0};

  LoopedElemToLoc(int dim_) : dim(dim_), inner_looper(dim_ - 1) {}

  void next(const int* shape, const int64_t* strides) { next(1, shape, strides); }

  void next(int n, const int* shape, const int64_t* strides) {
    if (dim == 0) {
      return;
    }
    const int extent = shape[dim - 1];
    index += n;
    if (index >= extent) {
      inner_looper.next(index / extent, shape, strides);
      index %= extent;
      offset = inner_looper.offset + index * OffsetT(strides[dim - 1]);
    } else {
      offset += n * OffsetT(strides[dim - 1]);
    }
  }

  OffsetT location() { return offset; }
};

template <typename OffsetT>
struct LoopedElemToLoc<1, OffsetT, true> {
  int dim;
  OffsetT offset{0};
  uint index{0};

  LoopedElemToLoc(int dim_) : dim(dim_) {}

  void next(const int* shape, const int64_t* strides) { next(1, shape, strides); }

  void next(int n, const int* shape, const int64_t* strides) {
    index += n;
    offset = dim > 1 ? elem_to_loc<OffsetT>(index, shape, strides, dim)
                     : index * OffsetT(strides[0]);
  }

  OffsetT location() { return offset; }
};

template <typename OffsetT>
struct LoopedElemToLoc<1, OffsetT, false> {
  OffsetT offset{0};

  LoopedElemToLoc(int) {}

  void next(const int*, const int64_t* strides) { offset += OffsetT(strides[0]); }
  void next(int n, const int*, const int64_t* strides) { offset += n * OffsetT(strides[0]); }

  OffsetT location() { return offset; }
};

template <typename T, typename U>
inline T ceildiv(T N, U M) {
  return (N + M - 1) / M;
}

// Goldberg's form: the rounding error of 1 + x cancels between the logarithm and the divisor.
inline float log1p(float x) {
  const float sum = 1.0f + x;
  if (sum == Limits<float>::max) {
    return sum;
  }
  return sum == 1.0f ? x : x * (metal::log(sum) / (sum - 1.0f));
}
inline bfloat16_t log1p(bfloat16_t x) { return bfloat16_t(log1p(static_cast<float>(x))); }
inline complex64_t log1p(complex64_t in) {
  const float x = in.real, y = in.imag;
  const float theta = metal::atan2(y, x + 1);
  if (metal::sqrt(x * x + y * y) < 0.5f) {
    const float r = x * (2 + x) + y * y;
    return {r == 0 ? x : 0.5f * log1p(r), theta};
  }
  return {metal::log(metal::sqrt((x + 1) * (x + 1) + y * y)), theta};
}

inline float hypot(float x, float y) {
  if (metal::isinf(x) || metal::isinf(y)) {
    return metal::numeric_limits<float>::infinity();
  }
  return metal::_impl::derived(__builtin_hypotf(x, y), x, y);
}

template <bool condition, typename T, typename U>
struct ConditionalType {
  using type = U;
};
template <typename T, typename U>
struct ConditionalType<true, T, U> {
  using type = T;
};

// To bool by the bits: no subnormal is flushed to false.
template <typename U, typename T>
inline U cast_to(T val) {
  return static_cast<U>(val);
}
template <>
inline bool cast_to<bool, float>(float val) {
  return (as_type<uint32_t>(val) & 0x7fffffff) != 0;
}
template <>
inline bool cast_to<bool, bfloat16_t>(bfloat16_t val) {
  return (as_type<uint16_t>(val) & 0x7fff) != 0;
}
template <>
inline bool cast_to<bool, complex64_t>(complex64_t val) {
  return cast_to<bool, float>(val.real) || cast_to<bool, float>(val.imag);
}

// Which row tile of which group is tile number `tile`, when each group's rows (offsets[g] to
// offsets[g + 1]) are cut into tiles of BM. A whole simdgroup calls; one lane looks at one group.
template <int BM>
METAL_FUNC bool schedule_row_tile(
    const int32_t* offsets, const int num_groups, const int M, const int tile,
    const uint simd_lane_id, int& row, int& group, short& rows) {
  int tiles_before = 0;
  for (int first = 0; first < num_groups; first += 32) {
    const int g = first + simd_lane_id;
    const int start = g < num_groups ? offsets[g] : M;
    const int end = g + 1 < num_groups ? offsets[g + 1] : M;
    const int tiles = (end - start + BM - 1) / BM;
    const int tiles_through = tiles_before + simd_prefix_inclusive_sum(tiles);
    const ushort owner = ushort(simd_sum(int(tiles_through <= tile)));
    if (owner < 32) {
      group = first + owner;
      row = simd_shuffle(start, owner) +
            (tile - simd_shuffle(tiles_through - tiles, owner)) * BM;
      rows = short(metal::min(BM, simd_shuffle(end, owner) - row));
      return true;
    }
    tiles_before = simd_shuffle(tiles_through, ushort(31));
  }
  return false;
}

MSL_TEXT_END
