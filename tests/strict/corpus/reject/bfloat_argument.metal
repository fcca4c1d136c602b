// expect bfloat: float becomes bfloat without a cast
void store(device bfloat* out, bfloat value) {
  out[0] = value;
}
kernel void f(device bfloat* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  store(out, a[0]);
}
