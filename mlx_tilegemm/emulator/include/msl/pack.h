// <metal_pack>: normalized integers packed into 16 or 32 bits.
#pragma once

#include "common.h"

namespace metal {
namespace _impl {

MSL_INLINE float from_unorm(uint bits, uint max) { return float(bits) / float(max); }
MSL_INLINE float from_snorm(int bits, int max) {
  const float value = float(bits) / float(max);
  return value < -1.0f ? -1.0f : value;
}
MSL_INLINE uint to_unorm(float value, float max) { return uint(rint(saturate(value) * max)); }
MSL_INLINE uint to_snorm(float value, float max) {
  return uint(int(rint(clamp(value, -1.0f, 1.0f) * max)));
}
MSL_INLINE float from_srgb(float c) {
  return c <= 0.04045f ? c / 12.92f : pow((c + 0.055f) / 1.055f, 2.4f);
}
MSL_INLINE float to_srgb(float value) {
  const float c = saturate(value);
  return c <= 0.0031308f ? c * 12.92f : 1.055f * pow(c, 1.0f / 2.4f) - 0.055f;
}

}  // namespace _impl

MSL_INLINE float4 unpack_unorm4x8_to_float(uint x) {
  return float4(_impl::from_unorm(x & 255u, 255), _impl::from_unorm((x >> 8) & 255u, 255),
                _impl::from_unorm((x >> 16) & 255u, 255), _impl::from_unorm(x >> 24, 255));
}
MSL_INLINE float4 unpack_snorm4x8_to_float(uint x) {
  return float4(_impl::from_snorm(int8_t(x), 127), _impl::from_snorm(int8_t(x >> 8), 127),
                _impl::from_snorm(int8_t(x >> 16), 127), _impl::from_snorm(int8_t(x >> 24), 127));
}
MSL_INLINE float4 unpack_unorm4x8_srgb_to_float(uint x) {
  const float4 c = unpack_unorm4x8_to_float(x);
  return float4(_impl::from_srgb(c.x), _impl::from_srgb(c.y), _impl::from_srgb(c.z), c.w);
}
MSL_INLINE float2 unpack_unorm2x16_to_float(uint x) {
  return float2(_impl::from_unorm(x & 65535u, 65535), _impl::from_unorm(x >> 16, 65535));
}
MSL_INLINE float2 unpack_snorm2x16_to_float(uint x) {
  return float2(_impl::from_snorm(int16_t(x), 32767), _impl::from_snorm(int16_t(x >> 16), 32767));
}
MSL_INLINE float4 unpack_unorm10a2_to_float(uint x) {
  return float4(_impl::from_unorm(x & 1023u, 1023), _impl::from_unorm((x >> 10) & 1023u, 1023),
                _impl::from_unorm((x >> 20) & 1023u, 1023), _impl::from_unorm(x >> 30, 3));
}
MSL_INLINE float3 unpack_unorm565_to_float(ushort x) {
  return float3(_impl::from_unorm(x & 31u, 31), _impl::from_unorm((x >> 5) & 63u, 63),
                _impl::from_unorm(x >> 11, 31));
}

MSL_INLINE uint pack_float_to_unorm4x8(float4 v) {
  return _impl::to_unorm(v.x, 255) | _impl::to_unorm(v.y, 255) << 8 |
         _impl::to_unorm(v.z, 255) << 16 | _impl::to_unorm(v.w, 255) << 24;
}
MSL_INLINE uint pack_float_to_snorm4x8(float4 v) {
  return (_impl::to_snorm(v.x, 127) & 255u) | (_impl::to_snorm(v.y, 127) & 255u) << 8 |
         (_impl::to_snorm(v.z, 127) & 255u) << 16 | _impl::to_snorm(v.w, 127) << 24;
}
MSL_INLINE uint pack_float_to_srgb_unorm4x8(float4 v) {
  return pack_float_to_unorm4x8(
      float4(_impl::to_srgb(v.x), _impl::to_srgb(v.y), _impl::to_srgb(v.z), v.w));
}
MSL_INLINE uint pack_float_to_unorm2x16(float2 v) {
  return _impl::to_unorm(v.x, 65535) | _impl::to_unorm(v.y, 65535) << 16;
}
MSL_INLINE uint pack_float_to_snorm2x16(float2 v) {
  return (_impl::to_snorm(v.x, 32767) & 65535u) | _impl::to_snorm(v.y, 32767) << 16;
}
MSL_INLINE uint pack_float_to_unorm10a2(float4 v) {
  return _impl::to_unorm(v.x, 1023) | _impl::to_unorm(v.y, 1023) << 10 |
         _impl::to_unorm(v.z, 1023) << 20 | _impl::to_unorm(v.w, 3) << 30;
}
MSL_INLINE ushort pack_float_to_unorm565(float3 v) {
  return ushort(_impl::to_unorm(v.x, 31) | _impl::to_unorm(v.y, 63) << 5 |
                _impl::to_unorm(v.z, 31) << 11);
}

#define MSL_UNPACK_HALF(n, format, bits)                   \
  MSL_INLINE half##n unpack_##format##_to_half(bits x) {   \
    return half##n(unpack_##format##_to_float(x));         \
  }
#define MSL_PACK_HALF(n, format, bits) \
  MSL_INLINE bits pack_half_to_##format(half##n v) { return pack_float_to_##format(float##n(v)); }
MSL_UNPACK_HALF(4, unorm4x8, uint)
MSL_UNPACK_HALF(4, snorm4x8, uint)
MSL_UNPACK_HALF(4, unorm4x8_srgb, uint)
MSL_UNPACK_HALF(2, unorm2x16, uint)
MSL_UNPACK_HALF(2, snorm2x16, uint)
MSL_UNPACK_HALF(4, unorm10a2, uint)
MSL_UNPACK_HALF(3, unorm565, ushort)
MSL_PACK_HALF(4, unorm4x8, uint)
MSL_PACK_HALF(4, snorm4x8, uint)
MSL_PACK_HALF(4, srgb_unorm4x8, uint)
MSL_PACK_HALF(2, unorm2x16, uint)
MSL_PACK_HALF(2, snorm2x16, uint)
MSL_PACK_HALF(4, unorm10a2, uint)
MSL_PACK_HALF(3, unorm565, ushort)
#undef MSL_UNPACK_HALF
#undef MSL_PACK_HALF

}  // namespace metal
