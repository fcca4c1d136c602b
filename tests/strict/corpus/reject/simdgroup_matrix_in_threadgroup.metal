// expect compile: .*
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup simdgroup_float8x8 m;
  simdgroup_store(m, out, 8);
}
