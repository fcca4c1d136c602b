// The words and scalar types of Metal on top of C++ for OpenCL.
#pragma once

#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION __cl_clang_non_portable_kernel_param_types : enable
#pragma OPENCL EXTENSION __cl_clang_bitfields : enable

#define __METAL__ 1
#define __METAL_MACOS__ 1
#ifndef __METAL_VERSION__
#define __METAL_VERSION__ 310
#endif

#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private
#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_CONST const

// Words of other shader stages: keywords of the language, so not free as names.
#define vertex __attribute__((annotate("vertex")))
#define fragment __attribute__((annotate("fragment")))
#define ray_data __private
#define object_data __global

// Words of OpenCL that are plain names in Metal.
#define global strict_global
#define local strict_local
#define generic strict_generic
#define pipe strict_pipe
#define read_only strict_read_only
#define write_only strict_write_only
#define read_write strict_read_write
#define atomic_int strict_atomic_int
#define atomic_uint strict_atomic_uint
#define atomic_float strict_atomic_float
#define atomic_flag strict_atomic_flag
#define atomic_long strict_atomic_long
#define atomic_ulong strict_atomic_ulong
#define event_t strict_event_t
#define sampler_t strict_sampler_t

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
typedef long intptr_t;
typedef unsigned long uintptr_t;

// Clang converts floats to this type without a cast, which Metal does not; strict/tree.py reports
// every such conversion.
typedef __bf16 bfloat;

namespace strict {

template <bool>
struct require {};
template <>
struct require<true> {
  typedef int type;
};

template <typename T, typename U>
struct same {
  static constant constexpr const bool value = false;
};
template <typename T>
struct same<T, T> {
  static constant constexpr const bool value = true;
};

enum scalar_kind { not_scalar, is_bool, is_integer, is_float, is_bfloat };

template <typename T>
struct kind_of {
  static constant constexpr const scalar_kind value = not_scalar;
};
template <typename T>
struct kind_of<const T> : kind_of<T> {};
#define STRICT_KIND(TYPE, KIND)                                   \
  template <>                                                     \
  struct kind_of<TYPE> {                                          \
    static constant constexpr const scalar_kind value = KIND;     \
  };
STRICT_KIND(bool, is_bool)
STRICT_KIND(char, is_integer)
STRICT_KIND(signed char, is_integer)
STRICT_KIND(uchar, is_integer)
STRICT_KIND(short, is_integer)
STRICT_KIND(ushort, is_integer)
STRICT_KIND(int, is_integer)
STRICT_KIND(uint, is_integer)
STRICT_KIND(long, is_integer)
STRICT_KIND(ulong, is_integer)
STRICT_KIND(half, is_float)
STRICT_KIND(float, is_float)
STRICT_KIND(bfloat, is_bfloat)
#undef STRICT_KIND

template <typename T>
struct is_arithmetic {
  static constant constexpr const bool value =
      kind_of<T>::value != not_scalar && kind_of<T>::value != is_bfloat;
};
template <typename T>
struct is_index {
  static constant constexpr const bool value =
      kind_of<T>::value == is_integer || kind_of<T>::value == is_bool;
};

// Whether a scalar of type S may meet a vector of T elements without a cast: floats do not become
// integers, and nothing becomes a bfloat.
template <typename T, typename S>
struct meets {
  static constant constexpr const bool value = kind_of<T>::value == is_bfloat
      ? kind_of<S>::value == is_bfloat
      : kind_of<T>::value == is_float ? kind_of<S>::value != not_scalar
                                      : is_index<S>::value;
};

// Whether it does so only with a cast.
template <typename T, typename S>
struct casts {
  static constant constexpr const bool value =
      kind_of<S>::value != not_scalar && !meets<T, S>::value;
};

}  // namespace strict

#define STRICT_IF(...) typename strict::require<(__VA_ARGS__)>::type = 0

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_huge_valf()
#define HUGE_VALH ((half)__builtin_huge_valf())
#define MAXFLOAT 3.40282346638528860e+38f
#define MAXHALF 65504.0h
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define FLT_MAX 3.40282346638528860e+38f
#define FLT_MIN 1.17549435082228751e-38f
#define FLT_EPSILON 1.19209289550781250e-7f
#define HALF_MAX 65504.0h
#define HALF_MIN 6.10351562500000000e-5h
#define HALF_EPSILON 9.76562500000000000e-4h
#define CHAR_BIT 8
#define CHAR_MAX 127
#define CHAR_MIN (-128)
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807l
#define LONG_MIN (-9223372036854775807l - 1l)
#define ULONG_MAX 18446744073709551615ul
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_E_H 2.71828182845904523536h
#define M_LOG2E_H 1.44269504088896340736h
#define M_LN2_H 0.69314718055994530942h
#define M_PI_H 3.14159265358979323846h
#define M_SQRT2_H 1.41421356237309504880h
