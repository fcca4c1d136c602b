// expect compile: .*
// expect reserved: fragment is a word of Metal
// MSL, Vertex, Fragment and Kernel Functions.
typedef simdgroup_matrix<float, 8, 8> fragment;
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
