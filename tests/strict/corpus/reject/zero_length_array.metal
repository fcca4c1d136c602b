// expect compile: zero-length arrays are not permitted|zero size arrays
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup float tile[0];
  out[0] = 1.0f;
}
