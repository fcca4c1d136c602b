kernel void f(
    device float* out [[buffer(0)]],
    const device float* a [[buffer(1)]],
    uint i [[thread_position_in_grid]]) {
  out[i] = a[i];
}
