// expect compile: .*
kernel void f(device float* out [[buffer(0)]]) {
  float kernel = 1.0f;
  out[0] = kernel;
}
