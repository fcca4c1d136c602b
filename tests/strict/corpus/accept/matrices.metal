kernel void f(device float4* out [[buffer(0)]], const constant float4x4& m [[buffer(1)]]) {
  float4x4 a = m;
  out[0] = a * out[1];
  out[1] = transpose(a)[2];
  a[0] = float4(1.0f);
  float2x2 b = float2x2(float2(1.0f), float2(2.0f));
  out[2].xy = b[1];
}
