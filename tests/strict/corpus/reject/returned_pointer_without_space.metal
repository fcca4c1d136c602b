// expect address-space: advance returns
float* advance(device float* p);
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
