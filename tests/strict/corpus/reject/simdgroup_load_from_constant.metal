// expect compile: no matching function for call to 'simdgroup_load'
kernel void f(device float* out [[buffer(0)]], const constant float* a [[buffer(1)]]) {
  simdgroup_float8x8 m;
  simdgroup_load(m, a, 8);
  simdgroup_store(m, out, 8);
}
