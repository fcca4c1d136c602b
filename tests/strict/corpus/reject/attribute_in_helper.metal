// expect compile: use of undeclared identifier 'thread_position_in_grid'
float value() {
  return float(thread_position_in_grid.x);
}
kernel void f(
    device float* out [[buffer(0)]],
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  out[thread_position_in_grid.x] = value();
}
