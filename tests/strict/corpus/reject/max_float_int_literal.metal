// expect compile: call to 'max' is ambiguous
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = max(out[1], 0);
}
