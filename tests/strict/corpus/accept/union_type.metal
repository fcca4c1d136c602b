union Bits {
  float f;
  uint u;
};
kernel void f(device uint* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  Bits bits;
  bits.f = a[0];
  out[0] = bits.u;
}
