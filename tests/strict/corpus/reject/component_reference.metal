// expect compile: binding reference of type
kernel void f(device float* out [[buffer(0)]]) {
  float4 v = float4(1.0f);
  thread float& x = v.x;
  out[0] = x;
}
