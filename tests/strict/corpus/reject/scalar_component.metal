// expect compile: member reference base type
kernel void f(device float* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  out[i.x] = 1.0f;
}
