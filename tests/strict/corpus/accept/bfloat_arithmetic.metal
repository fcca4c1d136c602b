kernel void f(device bfloat* out [[buffer(0)]], const device bfloat* a [[buffer(1)]]) {
  bfloat x = a[0] + a[1];
  x = -x * a[2];
  x += a[3];
  out[0] = x / a[4];
  out[1] = x < a[5] ? x : a[5];
  out[2] = max(x, a[6]);
  out[3] = abs(x);
}
