// expect compile: no viable overloaded operator
// expect compile: redefinition of 'thread_position_in_grid'
kernel void f(
    device float* out [[buffer(0)]],
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  uint thread_position_in_grid = 1;
  out[thread_position_in_grid] = 1.0f;
}
