// expect compile: no viable overloaded operator\[\]
kernel void f(device float* out [[buffer(0)]], const device float4* a [[buffer(1)]]) {
  out[0] = a[0][out[1]];
}
