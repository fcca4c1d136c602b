// expect compile: from incompatible type
kernel void f(device bfloat* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  out[0] = a[0];
}
