METAL_FUNC void add(thread float4& to, float4 by) {
  to += by;
}
kernel void f(device float4* out [[buffer(0)]]) {
  float4 v = out[0];
  thread float4& same = v;
  add(same, out[1]);
  device float4& first = out[2];
  first = v;
}
