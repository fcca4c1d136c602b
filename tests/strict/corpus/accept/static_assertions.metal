static_assert(sizeof(float4) == 16, "a float4 is 16 bytes");
static_assert(sizeof(float3) == 16, "a float3 is 16 bytes");
static_assert(sizeof(packed_float3) == 12, "a packed_float3 is 12 bytes");
static_assert(alignof(half4) == 8, "a half4 is aligned to 8 bytes");
static_assert(sizeof(bfloat) == 2 && sizeof(half) == 2 && sizeof(long) == 8, "sizes");
static_assert(sizeof(size_t) == 8 && sizeof(bool) == 1 && sizeof(char) == 1, "sizes");
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
