// How a helper takes operands in any address space.
template <typename Pointer>
METAL_FUNC float first(Pointer p, size_t stride) {
  return float(p[0]) + float(p[stride]);
}
kernel void f(
    device float* out [[buffer(0)]],
    const device half* a [[buffer(1)]],
    const constant bfloat* b [[buffer(2)]]) {
  threadgroup float tile[4];
  tile[0] = 0.0f;
  out[0] = first(a, 1) + first(b, 2) + first(tile + 1, 1);
}
