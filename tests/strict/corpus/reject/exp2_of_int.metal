// expect compile: call to 'exp2' is ambiguous
kernel void f(device float* out [[buffer(0)]], const device int* a [[buffer(1)]]) {
  out[0] = exp2(a[0]);
}
