// What the Metal headers rest on where NVRTC compiles them: the compiler's own functions by the names
// of a host compiler, the thread's place, barriers.
#pragma once

#define __INT8_TYPE__ signed char
#define __INT16_TYPE__ short
#define __INT32_TYPE__ int
#define __INT64_TYPE__ long
#define __UINT8_TYPE__ unsigned char
#define __UINT16_TYPE__ unsigned short
#define __UINT32_TYPE__ unsigned int
#define __UINT64_TYPE__ unsigned long
#define __INTPTR_TYPE__ long
#define __UINTPTR_TYPE__ unsigned long
#define __PTRDIFF_TYPE__ long
#define __SIZE_TYPE__ unsigned long

#define __builtin_acos(x) ::acosf(x)
#define __builtin_acosh(x) ::acoshf(x)
#define __builtin_asin(x) ::asinf(x)
#define __builtin_asinh(x) ::asinhf(x)
#define __builtin_atan(x) ::atanf(x)
#define __builtin_atan2(x, y) ::atan2f(x, y)
#define __builtin_atanh(x) ::atanhf(x)
#define __builtin_ceilf(x) ::ceilf(x)
#define __builtin_copysign(x, y) ::copysign(x, y)
#define __builtin_copysignf(x, y) ::copysignf(x, y)
#define __builtin_cosf(x) ::cosf(x)
#define __builtin_cosh(x) ::coshf(x)
#define __builtin_expf(x) ::expf(x)
#define __builtin_fabs(x) ::fabs(x)
#define __builtin_fabsf(x) ::fabsf(x)
#define __builtin_floorf(x) ::floorf(x)
#define __builtin_fmaf(x, y, z) ::fmaf(x, y, z)
#define __builtin_fmodf(x, y) ::fmodf(x, y)
#define __builtin_frexpf(x, exponent) ::frexpf(x, exponent)
#define __builtin_hypotf(x, y) ::hypotf(x, y)
#define __builtin_ilogbf(x) ::ilogbf(x)
#define __builtin_ldexpf(x, exponent) ::ldexpf(x, exponent)
#define __builtin_log10(x) ::log10f(x)
#define __builtin_log2f(x) ::log2f(x)
#define __builtin_logf(x) ::logf(x)
#define __builtin_nextafterf(x, y) ::nextafterf(x, y)
#define __builtin_pow(x, y) ::powf(x, y)
#define __builtin_powf(x, y) ::powf(x, y)
#define __builtin_rint(x) ::rint(x)
#define __builtin_rintf(x) ::rintf(x)
#define __builtin_roundf(x) ::roundf(x)
#define __builtin_sin(x) ::sin(x)
#define __builtin_sinf(x) ::sinf(x)
#define __builtin_sinh(x) ::sinhf(x)
#define __builtin_sqrt(x) ::sqrt(double(x))
#define __builtin_sqrtf(x) ::sqrtf(x)
#define __builtin_tan(x) ::tan(x)
#define __builtin_tanh(x) ::tanhf(x)
#define __builtin_truncf(x) ::truncf(x)

#if defined(MSL_RT_EXACT)
#define __builtin_exp2f(x) ::exp2f(x)
#else
#define __builtin_exp2f(x) msl_rt::exp2(x)
#define MSL_RT_FMAX(x, y) ::fmaxf(x, y)
#define MSL_RT_FMIN(x, y) ::fminf(x, y)
#endif

#define __builtin_inff() __builtin_bit_cast(float, 0x7f800000u)
#define __builtin_huge_valf() __builtin_inff()
#define __builtin_nanf(text) __builtin_bit_cast(float, 0x7fc00000u)

#define __builtin_clzll(x) ::__clzll(x)
#define __builtin_ctz(x) (::__ffs(x) - 1)
#define __builtin_ctzll(x) (::__ffsll(x) - 1)
#define __builtin_popcountll(x) ::__popcll(x)

#define __builtin_memcpy(target, source, bytes) ::memcpy(target, source, bytes)

#include "msl/thread.h"

#define MSL_RT_UNCHECKED
#define MSL_WITHIN(count, index) index
#define msl_rt_element(array, ...) ((array)[__VA_ARGS__])

// CUDA has global functions and vectors of the names that Metal has, so kernels stand where those of
// Metal are found first.
#define MSL_RT_OWN_VECTORS
#define MSL_TEXT_BEGIN \
  namespace metal {    \
  namespace kernels {
#define MSL_TEXT_END \
  }                  \
  }

namespace msl_rt {

// As GPUs of Apple: what is too small for a normal number is zero.
__forceinline__ float exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

template <typename T>
inline constexpr uint32_t scalar_size = 1;

constexpr uint32_t full_mask = 0xffffffffu;

// With MSL_RT_FRAGMENTS lanes are renumbered: Metal's place of a lane in an 8x8 matrix is CUDA's with
// the bits of the lane's number in another order. An exclusive or keeps its meaning under both.
__forceinline__ uint32_t hardware_lane() {
  uint32_t lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

__forceinline__ constexpr uint32_t metal_lane(uint32_t lane) {
#if defined(MSL_RT_FRAGMENTS)
  return (lane & 16u) | (lane & 2u) << 2 | (lane & 12u) >> 1 | (lane & 1u);
#else
  return lane;
#endif
}

__forceinline__ constexpr uint32_t hardware_lane_of(uint32_t lane) {
#if defined(MSL_RT_FRAGMENTS)
  return (lane & 16u) | (lane & 6u) << 1 | (lane & 8u) >> 2 | (lane & 1u);
#else
  return lane;
#endif
}

}  // namespace msl_rt

__forceinline__ msl_rt::uint32_t msl_rt_lane() {
  return msl_rt::metal_lane(msl_rt::hardware_lane());
}

__forceinline__ void msl_rt_threadgroup_barrier(
    msl_rt::uint32_t, const char*, msl_rt::int32_t) {
#if defined(MSL_RT_STAGES)
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  __syncthreads();
}

__forceinline__ void msl_rt_simdgroup_barrier(
    msl_rt::uint32_t flags, const char*, msl_rt::int32_t) {
  if (flags == msl_rt::memory_none) {
    asm volatile("" ::: "memory");
  } else {
    __syncwarp();
  }
}

__forceinline__ void msl_rt_atomic(
    const volatile void*, msl_rt::size_t, msl_rt::AtomicAccess) {}

// What the rewriter makes of a declaration of threadgroup memory.
#define MSL_RT_THREADGROUP(type, name, number, alignment) \
  __shared__ __align__(alignment > 16 ? alignment : 16) type name;
