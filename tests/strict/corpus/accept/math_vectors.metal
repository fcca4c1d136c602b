kernel void f(device float4* out [[buffer(0)]], const device half2* a [[buffer(1)]]) {
  float4 v = out[0];
  out[1] = exp(v) + max(v, 0.0f) + clamp(v, 0.0f, 1.0f) + fma(v, v, v) + floor(v);
  half2 h = sqrt(a[0]);
  out[2] = float4(float2(h), float2(a[1]));
}
