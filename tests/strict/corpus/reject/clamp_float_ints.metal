// expect compile: call to 'clamp' is ambiguous
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = clamp(out[1], -1, 1);
}
