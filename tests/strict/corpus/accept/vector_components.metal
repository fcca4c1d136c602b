kernel void f(device float4* out [[buffer(0)]], const device float4* a [[buffer(1)]]) {
  float4 v = a[0];
  v.x = 1.0f;
  v.y += 2.0f;
  v[2] = v.w;
  v.xy = a[1].zw;
  v.zw = v.xy;
  v.xyz *= 2.0f;
  float3 c = a[2].rgb;
  float2 twice = v.xx;
  out[0] = v.wzyx + float4(c, twice.y);
  out[1].x = a[0][3];
  out[2].yz = a[0].xw;
  uint i = 2;
  out[3][i] = v[i];
}
