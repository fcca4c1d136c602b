kernel void f(device float4* out [[buffer(0)]], const device float2* a [[buffer(1)]], const device half4* h [[buffer(2)]]) {
  out[0] = float4(1.0f);
  out[1] = float4(1.0f, 2.0f, 3.0f, 4.0f);
  out[2] = float4(a[0], a[1]);
  out[3] = float4(a[0], 1.0f, 2.0f);
  out[4] = float4(1.0f, a[0], 2.0f);
  out[5] = float4(float3(a[0], 1.0f), 2.0f);
  out[6] = float4(h[0]);
  out[7] = vec<float, 4>(1, 2, 3, 4);
  float4 splat = 0.0f;
  float2 pair = {1.0f, 2.0f};
  int3 whole = int3(1, 2, 3);
  uint2 natural = uint2(3u);
  out[8] = splat + float4(pair, float2(natural)) + float4(float3(whole), 1.0f);
}
