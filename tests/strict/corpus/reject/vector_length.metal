// expect compile: no viable
kernel void f(device float4* out [[buffer(0)]], const device float3* a [[buffer(1)]]) {
  out[0] = a[0];
}
