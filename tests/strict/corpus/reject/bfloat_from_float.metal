// expect bfloat: float becomes bfloat without a cast
// MSL, Scalar Data Types: nothing converts to bfloat implicitly.
kernel void f(device bfloat* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  bfloat x = a[0];
  out[0] = x;
}
