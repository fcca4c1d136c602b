// expect compile: cannot initialize
// MSL, Scalar Data Types: bfloat converts to types of greater rank alone.
kernel void f(device half* out [[buffer(0)]], const device bfloat* a [[buffer(1)]]) {
  half x = a[0];
  out[0] = x;
}
