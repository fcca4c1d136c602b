kernel void f(device float* out [[buffer(0)]], const device bfloat* a [[buffer(1)]]) {
  float x = a[0];
  out[0] = x + a[1];
  out[1] = a[0] * 2.0f;
  out[2] = float(a[1]);
}
