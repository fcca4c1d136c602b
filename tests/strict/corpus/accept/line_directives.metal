#line 1 "templates/one.metal"
METAL_FUNC float twice(float x) {
  return x + x;
}
#line 40 "templates/two.metal"
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = twice(1.0f);
}
