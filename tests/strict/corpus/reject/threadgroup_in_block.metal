// expect compile: .*
// expect threadgroup-scope: .*
kernel void f(device float* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  if (i < 4) {
    threadgroup float tile[4];
    tile[i] = 1.0f;
    out[i] = tile[i];
  }
}
