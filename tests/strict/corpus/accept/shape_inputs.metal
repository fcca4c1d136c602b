kernel void f(
    const device float16_t* a [[buffer(0)]],
    const constant int* a_shape [[buffer(1)]],
    const constant int64_t* a_strides [[buffer(2)]],
    const constant int& a_ndim [[buffer(3)]],
    device float16_t* out [[buffer(4)]],
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  uint elem = thread_position_in_grid.x;
  auto loc = elem_to_loc(elem, a_shape, a_strides, a_ndim);
  out[elem] = a[loc];
}
