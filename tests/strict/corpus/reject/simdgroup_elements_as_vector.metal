// expect compile: no viable conversion
// The elements of a lane have a type without a name; MLX reads them through a cast.
kernel void f(device float2* out [[buffer(0)]]) {
  simdgroup_float8x8 m(1.0f);
  float2 elements = m.thread_elements();
  out[0] = elements;
}
