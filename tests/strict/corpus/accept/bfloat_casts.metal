kernel void f(device bfloat* out [[buffer(0)]], const device float* a [[buffer(1)]], const device int* b [[buffer(2)]]) {
  out[0] = bfloat(a[0]);
  out[1] = static_cast<bfloat>(a[1]);
  out[2] = bfloat(b[0]);
  out[3] = (bfloat)a[2];
  out[4] = bfloat(0);
  out[5] = 1.0bf;
}
