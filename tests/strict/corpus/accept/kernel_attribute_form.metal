// MSL, Vertex, Fragment and Kernel Functions: `kernel void` and `[[kernel]] void` are one.
[[kernel]] void f(
    device float* out [[buffer(0)]],
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  out[thread_position_in_grid.x] = 1.0f;
}
