kernel void f(device ulong* out [[buffer(0)]]) {
  out[0] = 0xffffffffu;
  out[1] = 1ul << 40;
  out[2] = 0b1010;
  out[3] = 100l;
}
