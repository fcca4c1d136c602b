kernel void f(device half* out [[buffer(0)]], device bfloat* b [[buffer(1)]], device float2* v [[buffer(2)]], device long* l [[buffer(3)]]) {
  out[0] = simd_sum(out[1]);
  b[0] = simd_sum(b[1]);
  b[2] = simd_shuffle_xor(b[3], ushort(8));
  v[0] = simd_sum(v[1]);
  l[0] = simd_shuffle_down(l[1], uint16_t(1));
  ulong votes = ulong(simd_ballot(true));
  l[2] = long(votes);
}
