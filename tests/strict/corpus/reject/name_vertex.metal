// expect compile: .*
// expect reserved: vertex is a word of Metal
kernel void f(device float* out [[buffer(0)]]) {
  float vertex = 1.0f;
  out[0] = vertex;
}
