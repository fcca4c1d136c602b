// MSL, Packed Vector Types.
kernel void f(device packed_float3* out [[buffer(0)]], const device packed_float3* a [[buffer(1)]]) {
  float3 v = float3(a[0]);
  out[0] = packed_float3(v * 2.0f);
  out[1][0] = a[1][2];
}
