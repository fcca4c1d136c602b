// expect compile: assigning to .* from incompatible type|no viable conversion
kernel void f(device float* out [[buffer(0)]], const device float4* a [[buffer(1)]]) {
  out[0] = a[0];
}
