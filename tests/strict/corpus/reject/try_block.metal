// expect exception: .*
// expect compile: cannot use 'try'
// expect word: Metal has no exceptions
kernel void f(device float* out [[buffer(0)]]) {
  try {
    out[0] = 1.0f;
  } catch (...) {
  }
}
