// expect compile: no matching function for call to 'simdgroup_store'
kernel void f(const device float* a [[buffer(0)]]) {
  simdgroup_float8x8 m(1.0f);
  simdgroup_store(m, a, 8);
}
