// expect reserved: __local belongs to the compiler
kernel void f(device float* out [[buffer(0)]]) {
  __local float tile[4];
  tile[0] = 1.0f;
  out[0] = tile[0];
}
