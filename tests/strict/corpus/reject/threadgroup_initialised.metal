// expect compile: .*
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup float x = 1.0f;
  out[0] = x;
}
