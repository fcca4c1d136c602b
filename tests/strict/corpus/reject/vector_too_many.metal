// expect compile: no matching (constructor|conversion)
kernel void f(device float2* out [[buffer(0)]]) {
  out[0] = float2(1.0f, 2.0f, 3.0f);
}
