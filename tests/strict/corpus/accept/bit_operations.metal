kernel void f(device uint* out [[buffer(0)]]) {
  uint x = out[0];
  x = (x << 3) | (x >> 5) | (~x & 0xffu);
  x ^= 1u;
  out[1] = popcount(x) + clz(x) + ctz(x) + reverse_bits(x);
  out[2] = extract_bits(x, 4, 8) + insert_bits(x, x, 0, 4) + rotate(x, 3u) + mulhi(x, x);
}
