// expect compile: call to 'min' is ambiguous
// MSL, Math Functions: there is one overload for each type.
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  out[0] = min(a[0], out[1]);
}
