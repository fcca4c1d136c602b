// expect compile: invalid operands to binary expression
kernel void f(device float4* out [[buffer(0)]], const device half4* a [[buffer(1)]]) {
  out[0] = out[1] + a[0];
}
