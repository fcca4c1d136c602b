// expect compile: no setter defined for property
// MSL, Vector Components: a component stands at most once on the left.
kernel void f(device float4* out [[buffer(0)]]) {
  float4 v = out[0];
  v.xx = float2(1.0f, 2.0f);
  out[1] = v;
}
