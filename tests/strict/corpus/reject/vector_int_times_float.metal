// expect compile: invalid operands to binary expression
kernel void f(device int4* out [[buffer(0)]]) {
  out[0] = out[1] * 2.5f;
}
