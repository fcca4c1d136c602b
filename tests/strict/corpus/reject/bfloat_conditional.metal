// expect bfloat: float becomes bfloat without a cast
// expect mixed-conditional: the arms of the conditional are bfloat and float
kernel void f(device bfloat* out [[buffer(0)]], const device bfloat* a [[buffer(1)]]) {
  out[0] = a[1] > a[0] ? a[0] : -INFINITY;
}
