// expect compile: array subscript is not an integer
kernel void f(device float* out [[buffer(0)]]) {
  out[out[0]] = 1.0f;
}
