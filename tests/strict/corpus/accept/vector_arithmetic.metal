kernel void f(device float4* out [[buffer(0)]], const device float4* a [[buffer(1)]], const device int4* b [[buffer(2)]]) {
  float4 v = a[0] + a[1] * 2.0f - 1.0f / a[2];
  v *= 3.0f;
  v += a[3];
  v = -v;
  int4 w = b[0] % 3 + (b[1] << 2) + (b[2] & 7);
  w += 1;
  w |= b[3];
  out[0] = v + float4(w);
  out[1] = v * 2;
}
