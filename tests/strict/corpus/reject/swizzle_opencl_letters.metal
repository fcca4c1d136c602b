// expect compile: no member named 's0'
kernel void f(device float* out [[buffer(0)]], const device float4* a [[buffer(1)]]) {
  out[0] = a[0].s0;
}
