// The words and scalar types of Metal on top of C++ for OpenCL.
#pragma once

#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION __cl_clang_non_portable_kernel_param_types : enable

#define __METAL__ 1
#define __METAL_MACOS__ 1
#define __METAL_VERSION__ 310

#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private
#define METAL_FUNC inline __attribute__((always_inline))
#define AGX_PURE __attribute__((const, nothrow))
#define AGX_LANES __attribute__((const, nothrow, convergent))

#define MLX_MTL_PRAGMA_UNROLL _Pragma("clang loop unroll(full)")
#define MLX_MTL_PRAGMA_NO_UNROLL _Pragma("clang loop unroll(disable)")

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX 3.40282346638528860e+38f
#define FLT_MIN 1.17549435082228751e-38f
#define FLT_EPSILON 1.19209289550781250e-7f
#define MAXFLOAT FLT_MAX
#define M_PI_F 3.14159265358979323846f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.69314718055994530942f

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;

template <typename T, typename U>
METAL_FUNC T as_type(U value) {
  static_assert(sizeof(T) == sizeof(U), "as_type keeps the size.");
  if constexpr (__is_trivially_copyable(T) && __is_trivially_copyable(U)) {
    return __builtin_bit_cast(T, value);
  } else {
    T result;
    __builtin_memcpy(&result, &value, sizeof(T));
    return result;
  }
}

// These GPUs have no bfloat16 either: it is the upper half of a float, rounded with integers.
struct bfloat {
  ushort bits;
  bfloat() = default;
  METAL_FUNC bfloat(float value) {
    const uint wide = as_type<uint>(value);
    bits = ushort((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
  }
  METAL_FUNC bfloat(const bfloat& other) : bits(other.bits) {}
  METAL_FUNC bfloat(const __constant bfloat& other) : bits(other.bits) {}
  bfloat& operator=(const bfloat&) = default;
  METAL_FUNC operator float() const { return as_type<float>(uint(bits) << 16); }
  METAL_FUNC operator float() const __constant { return as_type<float>(uint(bits) << 16); }
};
