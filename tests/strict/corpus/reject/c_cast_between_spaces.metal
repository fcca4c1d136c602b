// expect compile: C-style cast from .* mismatching address spaces
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup float tile[4];
  out[0] = *(device float*)tile;
}
