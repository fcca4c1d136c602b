kernel void f(device float* out [[buffer(0)]], const constant uint& n [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  if (i >= n) {
    return;
  }
  out[i] = 1.0f;
}
