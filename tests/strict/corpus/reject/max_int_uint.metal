// expect compile: call to 'max' is ambiguous
// MSL, Integer Functions.
kernel void f(device int* out [[buffer(0)]], const device uint* a [[buffer(1)]]) {
  out[0] = max(out[1], a[0]);
}
