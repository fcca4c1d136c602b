// expect compile: no member named 'lo'
kernel void f(device float2* out [[buffer(0)]], const device float4* a [[buffer(1)]]) {
  out[0] = a[0].lo;
}
