// expect compile: kernel must have void return type
kernel float f(device float* out [[buffer(0)]]) {
  return out[0];
}
