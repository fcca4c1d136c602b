kernel void f(device bool* out [[buffer(0)]], const device float4* a [[buffer(1)]]) {
  out[0] = isnan(a[0].x) || isinf(a[0].y) || isfinite(a[0].z);
  out[1] = all(a[0] == a[1]) || any(a[0] < a[1]);
  float4 chosen = select(a[0], a[1], a[0] < a[1]);
  out[2] = select(1.0f, 2.0f, out[3]) > chosen.x;
  out[4] = any(isnan(a[0]));
}
