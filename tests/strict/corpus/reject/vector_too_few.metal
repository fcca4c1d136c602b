// expect compile: no matching|no viable|ambiguous
kernel void f(device float4* out [[buffer(0)]]) {
  out[0] = float4(1.0f, 2.0f);
}
