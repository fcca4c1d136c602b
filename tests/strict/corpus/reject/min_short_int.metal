// expect compile: call to 'min' is ambiguous
kernel void f(device int* out [[buffer(0)]], const device short* a [[buffer(1)]]) {
  out[0] = min(a[0], out[1]);
}
