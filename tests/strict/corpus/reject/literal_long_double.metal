// expect literal: 2.0l is no literal of Metal
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 2.0l;
}
