// expect compile: .*
// MSL, Vector Components: a component has no address.
kernel void f(device float* out [[buffer(0)]]) {
  float4 v = float4(1.0f);
  thread float* p = &v.x;
  out[0] = *p;
}
