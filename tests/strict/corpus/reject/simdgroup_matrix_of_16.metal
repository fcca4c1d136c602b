// expect compile: simdgroup_matrix is 8x8
kernel void f(device float* out [[buffer(0)]]) {
  simdgroup_matrix<float, 16, 16> m;
}
