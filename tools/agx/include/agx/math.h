// Metal's functions of numbers. `precise` and `fast` are one here: single instructions of the GPU.
#pragma once

extern "C" {
AGX_PURE float nir_fexp2(float);
AGX_PURE float nir_flog2(float);
AGX_PURE float nir_fsqrt(float);
AGX_PURE float nir_frsq(float);
AGX_PURE float nir_ffma(float, float, float);
AGX_PURE float nir_ffloor(float);
AGX_PURE float nir_fceil(float);
AGX_PURE float nir_ftrunc(float);
AGX_PURE float nir_fround_even(float);
AGX_PURE float nir_fsin(float);
AGX_PURE float nir_fcos(float);
AGX_PURE uint nir_bit_count(uint);
}

namespace metal {
#define AGX_ORDER(T)                                                  \
  METAL_FUNC T min(T a, T b) { return b < a ? b : a; }                \
  METAL_FUNC T max(T a, T b) { return a < b ? b : a; }                \
  METAL_FUNC T clamp(T v, T low, T high) { return min(max(v, low), high); }
AGX_ORDER(short)
AGX_ORDER(ushort)
AGX_ORDER(int)
AGX_ORDER(uint)
AGX_ORDER(long)
AGX_ORDER(ulong)
#undef AGX_ORDER
METAL_FUNC int abs(int v) { return v < 0 ? -v : v; }
METAL_FUNC uint popcount(uint v) { return nir_bit_count(v); }
METAL_FUNC int popcount(int v) { return int(nir_bit_count(uint(v))); }
template <typename T>
METAL_FUNC T select(T no, T yes, bool which) {
  return which ? yes : no;
}
METAL_FUNC bool isnan(float v) { return v != v; }
METAL_FUNC bool signbit(float v) { return as_type<uint>(v) >> 31; }
METAL_FUNC bool isinf(float v) { return __builtin_fabsf(v) == INFINITY; }
METAL_FUNC bool isfinite(float v) { return __builtin_fabsf(v) < INFINITY; }

#define AGX_UNARY(NAME, ...)                                        \
  METAL_FUNC float NAME(float v) { return __VA_ARGS__; }            \
  METAL_FUNC half NAME(half h) { return half(NAME(float(h))); }     \
  METAL_FUNC bfloat NAME(bfloat b) { return bfloat(NAME(float(b))); }
#define AGX_FUNCTIONS                                                             \
  AGX_UNARY(abs, __builtin_fabsf(v))                                              \
  AGX_UNARY(fabs, __builtin_fabsf(v))                                             \
  AGX_UNARY(exp2, nir_fexp2(v))                                                   \
  AGX_UNARY(exp, nir_fexp2(v * M_LOG2E_F))                                        \
  AGX_UNARY(log2, nir_flog2(v))                                                   \
  AGX_UNARY(log, nir_flog2(v) * M_LN2_F)                                          \
  AGX_UNARY(sqrt, nir_fsqrt(v))                                                   \
  AGX_UNARY(rsqrt, nir_frsq(v))                                                   \
  AGX_UNARY(floor, nir_ffloor(v))                                                 \
  AGX_UNARY(ceil, nir_fceil(v))                                                   \
  AGX_UNARY(trunc, nir_ftrunc(v))                                                 \
  AGX_UNARY(rint, nir_fround_even(v))                                             \
  AGX_UNARY(round, nir_ftrunc(v + __builtin_copysignf(0.5f, v)))                  \
  AGX_UNARY(sin, nir_fsin(v))                                                     \
  AGX_UNARY(cos, nir_fcos(v))                                                     \
  AGX_UNARY(tanh, 1.0f - 2.0f / (nir_fexp2(v * (2.0f * M_LOG2E_F)) + 1.0f))       \
  METAL_FUNC float pow(float x, float y) { return nir_fexp2(nir_flog2(x) * y); }  \
  METAL_FUNC float fma(float a, float b, float c) { return nir_ffma(a, b, c); }   \
  METAL_FUNC float min(float a, float b) { return __builtin_fminf(a, b); }        \
  METAL_FUNC float max(float a, float b) { return __builtin_fmaxf(a, b); }        \
  METAL_FUNC half min(half a, half b) { return b < a ? b : a; }                   \
  METAL_FUNC half max(half a, half b) { return a < b ? b : a; }                   \
  METAL_FUNC bfloat min(bfloat a, bfloat b) { return float(b) < float(a) ? b : a; } \
  METAL_FUNC bfloat max(bfloat a, bfloat b) { return float(a) < float(b) ? b : a; } \
  METAL_FUNC float fmin(float a, float b) { return __builtin_fminf(a, b); }       \
  METAL_FUNC float fmax(float a, float b) { return __builtin_fmaxf(a, b); }       \
  METAL_FUNC float clamp(float v, float low, float high) {                        \
    return __builtin_fminf(__builtin_fmaxf(v, low), high);                        \
  }                                                                               \
  METAL_FUNC float divide(float a, float b) { return a / b; }
AGX_FUNCTIONS
namespace precise {
AGX_FUNCTIONS
}
namespace fast {
AGX_FUNCTIONS
}
#undef AGX_FUNCTIONS
#undef AGX_UNARY
}  // namespace metal
