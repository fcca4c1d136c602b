// expect compile: call to 'fma' is ambiguous
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  out[0] = fma(a[0], out[1], out[2]);
}
