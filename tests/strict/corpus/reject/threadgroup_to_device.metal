// expect compile: cannot initialize a variable
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup float tile[4];
  device float* p = tile;
  out[0] = p[0];
}
