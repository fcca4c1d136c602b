// expect compile: taking address of function is not allowed
// expect compile: pointers to functions are not allowed
float twice(float x) {
  return x + x;
}
kernel void f(device float* out [[buffer(0)]]) {
  float (*g)(float) = twice;
  out[0] = g(1.0f);
}
