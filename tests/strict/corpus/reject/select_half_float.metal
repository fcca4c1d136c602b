// expect compile: call to 'select' is ambiguous
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  out[0] = select(a[0], out[1], true);
}
