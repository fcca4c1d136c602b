// expect compile: .*
kernel void f(device float* out [[buffer(0)]]) {
  simdgroup_float8x8 m(1.0f);
  out[0] = m[0];
}
