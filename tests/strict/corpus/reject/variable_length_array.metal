// expect compile: .*
kernel void f(device float* out [[buffer(0)]], const constant int& n [[buffer(1)]]) {
  float x[n];
  x[0] = 1.0f;
  out[0] = x[0];
}
