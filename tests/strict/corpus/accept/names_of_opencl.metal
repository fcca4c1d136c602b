// Keywords of OpenCL are plain names in Metal.
kernel void f(device float* out [[buffer(0)]]) {
  float global = 1.0f;
  float local = 2.0f;
  float generic = 3.0f;
  int pipe = 0;
  out[pipe] = global + local + generic;
}
