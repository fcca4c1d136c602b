// expect bfloat: float becomes bfloat without a cast
bfloat rounded(float value) {
  return value;
}
kernel void f(device bfloat* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  out[0] = rounded(a[0]);
}
