// expect compile: cannot be narrowed
kernel void f(device int* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  int x{a[0]};
  out[0] = x;
}
