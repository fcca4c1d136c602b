// expect compile: invalid operands to binary expression
kernel void f(device float4* out [[buffer(0)]]) {
  out[0] = out[1] % out[2];
}
