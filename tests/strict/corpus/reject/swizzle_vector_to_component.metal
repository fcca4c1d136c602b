// expect compile: .*
kernel void f(device float4* out [[buffer(0)]], const device float2* a [[buffer(1)]]) {
  float4 v = out[0];
  v.x = a[0];
  out[1] = v;
}
