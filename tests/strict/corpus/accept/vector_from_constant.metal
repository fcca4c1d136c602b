kernel void f(device float4* out [[buffer(0)]], const constant float4* a [[buffer(1)]]) {
  float4 v = a[0];
  v = a[1];
  out[0] = v + a[2] * a[0].x;
  out[1] = a[1];
  out[2].xy = a[0].zw;
}
