// <metal_math>, <metal_common>, <metal_geometric>, <metal_relational>, <metal_integer>, <metal_pack>.
//
// One overload for every type, as Metal has them, so that a call with operands of two types is
// ambiguous here where it is ambiguous there.
#pragma once

#include "matrix.h"
#include "traits.h"

#define STRICT_WIDTHS(X, TYPE, ...)                                        \
  X(TYPE, TYPE, bool, __VA_ARGS__)                                         \
  X(metal::vec<TYPE STRICT_COMMA 2>, TYPE, metal::vec<bool STRICT_COMMA 2>, __VA_ARGS__) \
  X(metal::vec<TYPE STRICT_COMMA 3>, TYPE, metal::vec<bool STRICT_COMMA 3>, __VA_ARGS__) \
  X(metal::vec<TYPE STRICT_COMMA 4>, TYPE, metal::vec<bool STRICT_COMMA 4>, __VA_ARGS__)
#define STRICT_COMMA ,
#define STRICT_FLOATS(X, ...) STRICT_WIDTHS(X, float, __VA_ARGS__) STRICT_WIDTHS(X, half, __VA_ARGS__)
#define STRICT_FLOAT_ONLY(X, ...) STRICT_WIDTHS(X, float, __VA_ARGS__)
#define STRICT_INTEGERS(X, ...)        \
  STRICT_WIDTHS(X, char, __VA_ARGS__)  \
  STRICT_WIDTHS(X, uchar, __VA_ARGS__) \
  STRICT_WIDTHS(X, short, __VA_ARGS__) \
  STRICT_WIDTHS(X, ushort, __VA_ARGS__) \
  STRICT_WIDTHS(X, int, __VA_ARGS__)   \
  STRICT_WIDTHS(X, uint, __VA_ARGS__)  \
  STRICT_WIDTHS(X, long, __VA_ARGS__)  \
  STRICT_WIDTHS(X, ulong, __VA_ARGS__)
#define STRICT_NUMBERS(X, ...) STRICT_FLOATS(X, __VA_ARGS__) STRICT_INTEGERS(X, __VA_ARGS__)

#define STRICT_UNARY(T, SCALAR, BOOL, NAME) T NAME(T);
#define STRICT_BINARY(T, SCALAR, BOOL, NAME) T NAME(T, T);
#define STRICT_TERNARY(T, SCALAR, BOOL, NAME) T NAME(T, T, T);
#define STRICT_TEST(T, SCALAR, BOOL, NAME) BOOL NAME(T);
#define STRICT_TEST_2(T, SCALAR, BOOL, NAME) BOOL NAME(T, T);
#define STRICT_SELECT(T, SCALAR, BOOL, NAME) T NAME(T, T, BOOL);
#define STRICT_SPLIT(T, SCALAR, BOOL, NAME) T NAME(T, thread T&);

// What fast:: and precise:: have too, for float alone.
#define STRICT_MATH(GROUP)                                                                 \
  GROUP(STRICT_UNARY, acos) GROUP(STRICT_UNARY, acosh) GROUP(STRICT_UNARY, asin)           \
  GROUP(STRICT_UNARY, asinh) GROUP(STRICT_UNARY, atan) GROUP(STRICT_UNARY, atanh)          \
  GROUP(STRICT_UNARY, ceil) GROUP(STRICT_UNARY, cos) GROUP(STRICT_UNARY, cosh)             \
  GROUP(STRICT_UNARY, cospi) GROUP(STRICT_UNARY, exp) GROUP(STRICT_UNARY, exp2)            \
  GROUP(STRICT_UNARY, exp10) GROUP(STRICT_UNARY, fabs) GROUP(STRICT_UNARY, floor)          \
  GROUP(STRICT_UNARY, fract) GROUP(STRICT_UNARY, log) GROUP(STRICT_UNARY, log2)            \
  GROUP(STRICT_UNARY, log10) GROUP(STRICT_UNARY, rint) GROUP(STRICT_UNARY, round)          \
  GROUP(STRICT_UNARY, rsqrt) GROUP(STRICT_UNARY, sin) GROUP(STRICT_UNARY, sinh)            \
  GROUP(STRICT_UNARY, sinpi) GROUP(STRICT_UNARY, sqrt) GROUP(STRICT_UNARY, tan)            \
  GROUP(STRICT_UNARY, tanh) GROUP(STRICT_UNARY, tanpi) GROUP(STRICT_UNARY, trunc)          \
  GROUP(STRICT_UNARY, saturate) GROUP(STRICT_UNARY, sign) GROUP(STRICT_BINARY, atan2)      \
  GROUP(STRICT_BINARY, copysign) GROUP(STRICT_BINARY, divide) GROUP(STRICT_BINARY, fdim) GROUP(STRICT_BINARY, fmax)     \
  GROUP(STRICT_BINARY, fmin) GROUP(STRICT_BINARY, fmod) GROUP(STRICT_BINARY, pow)          \
  GROUP(STRICT_BINARY, powr) GROUP(STRICT_BINARY, nextafter) GROUP(STRICT_BINARY, step)    \
  GROUP(STRICT_TERNARY, fma) GROUP(STRICT_TERNARY, mix) GROUP(STRICT_TERNARY, smoothstep)  \
  GROUP(STRICT_TERNARY, fmax3) GROUP(STRICT_TERNARY, fmedian3) GROUP(STRICT_TERNARY, fmin3) \
  GROUP(STRICT_SPLIT, modf) GROUP(STRICT_SPLIT, sincos)

#define STRICT_ARITHMETIC(GROUP)                                                      \
  GROUP(STRICT_UNARY, abs) GROUP(STRICT_BINARY, max) GROUP(STRICT_BINARY, min)        \
  GROUP(STRICT_TERNARY, clamp) GROUP(STRICT_TERNARY, max3) GROUP(STRICT_TERNARY, min3) \
  GROUP(STRICT_TERNARY, median3)

namespace metal {

#define STRICT_DECLARE(SHAPE, NAME) STRICT_FLOATS(SHAPE, NAME)
STRICT_MATH(STRICT_DECLARE)
#undef STRICT_DECLARE
#define STRICT_DECLARE(SHAPE, NAME) STRICT_NUMBERS(SHAPE, NAME)
STRICT_ARITHMETIC(STRICT_DECLARE)
#undef STRICT_DECLARE
#define STRICT_DECLARE(SHAPE, NAME) STRICT_FLOAT_ONLY(SHAPE, NAME)
namespace fast {
STRICT_MATH(STRICT_DECLARE)
STRICT_ARITHMETIC(STRICT_DECLARE)
}  // namespace fast
namespace precise {
STRICT_MATH(STRICT_DECLARE)
STRICT_ARITHMETIC(STRICT_DECLARE)
}  // namespace precise
#undef STRICT_DECLARE

STRICT_FLOATS(STRICT_TEST, isfinite)
STRICT_FLOATS(STRICT_TEST, isinf)
STRICT_FLOATS(STRICT_TEST, isnan)
STRICT_FLOATS(STRICT_TEST, isnormal)
STRICT_FLOATS(STRICT_TEST, signbit)
STRICT_FLOATS(STRICT_TEST_2, isordered)
STRICT_FLOATS(STRICT_TEST_2, isunordered)
STRICT_FLOATS(STRICT_TEST_2, isequal)
STRICT_FLOATS(STRICT_TEST_2, isgreater)
STRICT_FLOATS(STRICT_TEST_2, isless)
STRICT_NUMBERS(STRICT_SELECT, select)
STRICT_WIDTHS(STRICT_SELECT, bool, select)

STRICT_INTEGERS(STRICT_UNARY, clz)
STRICT_INTEGERS(STRICT_UNARY, ctz)
STRICT_INTEGERS(STRICT_UNARY, popcount)
STRICT_INTEGERS(STRICT_UNARY, reverse_bits)
STRICT_INTEGERS(STRICT_BINARY, absdiff)
STRICT_INTEGERS(STRICT_BINARY, addsat)
STRICT_INTEGERS(STRICT_BINARY, subsat)
STRICT_INTEGERS(STRICT_BINARY, hadd)
STRICT_INTEGERS(STRICT_BINARY, rhadd)
STRICT_INTEGERS(STRICT_BINARY, mulhi)
STRICT_INTEGERS(STRICT_BINARY, rotate)
STRICT_INTEGERS(STRICT_TERNARY, madhi)
STRICT_INTEGERS(STRICT_TERNARY, madsat)
STRICT_WIDTHS(STRICT_BINARY, int, mul24)
STRICT_WIDTHS(STRICT_BINARY, uint, mul24)
STRICT_WIDTHS(STRICT_TERNARY, int, mad24)
STRICT_WIDTHS(STRICT_TERNARY, uint, mad24)

#define STRICT_EXPONENT(T, SCALAR, BOOL, INT) \
  T ldexp(T, INT);                            \
  T frexp(T, thread INT&);                    \
  INT ilogb(T);
#define STRICT_EXPONENTS(TYPE)                                                              \
  STRICT_EXPONENT(TYPE, TYPE, bool, int)                                                    \
  STRICT_EXPONENT(vec<TYPE STRICT_COMMA 2>, TYPE, vec<bool STRICT_COMMA 2>, vec<int STRICT_COMMA 2>) \
  STRICT_EXPONENT(vec<TYPE STRICT_COMMA 3>, TYPE, vec<bool STRICT_COMMA 3>, vec<int STRICT_COMMA 3>) \
  STRICT_EXPONENT(vec<TYPE STRICT_COMMA 4>, TYPE, vec<bool STRICT_COMMA 4>, vec<int STRICT_COMMA 4>)
STRICT_EXPONENTS(float)
STRICT_EXPONENTS(half)
#undef STRICT_EXPONENTS
#undef STRICT_EXPONENT

#define STRICT_INSERT(T, SCALAR, BOOL, NAME) T NAME(T, T, uint, uint);
#define STRICT_EXTRACT(T, SCALAR, BOOL, NAME) T NAME(T, uint, uint);
STRICT_INTEGERS(STRICT_EXTRACT, extract_bits)
STRICT_INTEGERS(STRICT_INSERT, insert_bits)
#undef STRICT_INSERT
#undef STRICT_EXTRACT

#define STRICT_GEOMETRY(TYPE, N)                   \
  TYPE dot(vec<TYPE, N>, vec<TYPE, N>);            \
  TYPE length(vec<TYPE, N>);                       \
  TYPE length_squared(vec<TYPE, N>);               \
  TYPE distance(vec<TYPE, N>, vec<TYPE, N>);       \
  TYPE distance_squared(vec<TYPE, N>, vec<TYPE, N>); \
  vec<TYPE, N> normalize(vec<TYPE, N>);            \
  vec<TYPE, N> reflect(vec<TYPE, N>, vec<TYPE, N>);
STRICT_GEOMETRY(float, 2)
STRICT_GEOMETRY(float, 3)
STRICT_GEOMETRY(float, 4)
STRICT_GEOMETRY(half, 2)
STRICT_GEOMETRY(half, 3)
STRICT_GEOMETRY(half, 4)
#undef STRICT_GEOMETRY
vec<float, 3> cross(vec<float, 3>, vec<float, 3>);
vec<half, 3> cross(vec<half, 3>, vec<half, 3>);

template <int N>
bool all(vec<bool, N>);
template <int N>
bool any(vec<bool, N>);
bool all(bool);
bool any(bool);

uint pack_float_to_snorm4x8(vec<float, 4>);
uint pack_float_to_unorm4x8(vec<float, 4>);
uint pack_float_to_snorm2x16(vec<float, 2>);
uint pack_float_to_unorm2x16(vec<float, 2>);
uint pack_half_to_snorm4x8(vec<half, 4>);
uint pack_half_to_unorm4x8(vec<half, 4>);
vec<float, 4> unpack_snorm4x8_to_float(uint);
vec<float, 4> unpack_unorm4x8_to_float(uint);
vec<float, 2> unpack_snorm2x16_to_float(uint);
vec<float, 2> unpack_unorm2x16_to_float(uint);
vec<half, 4> unpack_snorm4x8_to_half(uint);
vec<half, 4> unpack_unorm4x8_to_half(uint);

}  // namespace metal
