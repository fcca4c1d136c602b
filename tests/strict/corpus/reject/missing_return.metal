// expect compile: non-void function does not return a value
float value(bool big) {
  if (big) {
    return 2.0f;
  }
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = value(true);
}
