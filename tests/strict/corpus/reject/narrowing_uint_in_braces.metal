// expect compile: cannot be narrowed
kernel void f(device int* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  int x{i};
  out[0] = x;
}
