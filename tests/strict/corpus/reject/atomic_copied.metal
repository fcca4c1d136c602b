// expect compile: deleted
kernel void f(device atomic_int* out [[buffer(0)]]) {
  out[0] = out[1];
}
