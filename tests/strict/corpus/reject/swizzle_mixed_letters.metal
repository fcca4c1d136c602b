// expect compile: no member named 'xg'
// MSL, Vector Components: xyzw and rgba do not mix.
kernel void f(device float2* out [[buffer(0)]], const device float4* a [[buffer(1)]]) {
  out[0] = a[0].xg;
}
