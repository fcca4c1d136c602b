// expect compile: no member named 'z'
kernel void f(device float* out [[buffer(0)]], const device float2* a [[buffer(1)]]) {
  out[0] = a[0].z;
}
