// expect compile: simdgroup_matrix holds half, bfloat or float
// MSL, SIMD-Group Matrix Data Types.
kernel void f(device int* out [[buffer(0)]]) {
  simdgroup_matrix<int, 8, 8> m;
}
