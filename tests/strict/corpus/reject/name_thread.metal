// expect compile: .*
kernel void f(device float* out [[buffer(0)]]) {
  uint thread = 1;
  out[thread] = 1.0f;
}
