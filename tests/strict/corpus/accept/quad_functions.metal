kernel void f(device float* out [[buffer(0)]]) {
  out[0] = quad_sum(out[1]) + quad_shuffle_xor(out[2], ushort(1)) + quad_broadcast(out[3], 0);
}
