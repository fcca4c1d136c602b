// expect bfloat: float becomes bfloat without a cast
kernel void f(device bfloat* out [[buffer(0)]]) {
  out[0] = 0.0f;
}
