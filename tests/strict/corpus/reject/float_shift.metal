// expect compile: invalid operands to binary expression
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = out[1] << 2;
}
