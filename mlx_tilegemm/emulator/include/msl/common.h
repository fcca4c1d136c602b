// <metal_common>.
#pragma once

#include "math.h"

namespace metal {

#define MSL_COMMON(T)                                                                \
  MSL_INLINE T mix(T x, T y, T a) { return x + (y - x) * a; }                        \
  MSL_INLINE T saturate(T x) { return clamp(x, T(0), T(1)); }                        \
  MSL_INLINE T sign(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x == x ? x : T(0); } \
  MSL_INLINE T step(T edge, T x) { return x < edge ? T(0) : T(1); }                  \
  MSL_INLINE T smoothstep(T edge0, T edge1, T x) {                                   \
    const T t = saturate((x - edge0) / (edge1 - edge0));                             \
    return t * t * (T(3) - T(2) * t);                                                \
  }
MSL_COMMON(float)
MSL_COMMON(half)
#undef MSL_COMMON

MSL_LIFT3(mix, real_t)
MSL_LIFT1(saturate, real_t)
MSL_LIFT1(sign, real_t)
MSL_LIFT2(step, real_t)
MSL_LIFT3(smoothstep, real_t)

#define MSL_EACH_COMMON(M) M(mix) M(saturate) M(sign) M(step) M(smoothstep)
namespace fast {
MSL_EACH_COMMON(MSL_USING)
}
namespace precise {
MSL_EACH_COMMON(MSL_USING)
}

}  // namespace metal
