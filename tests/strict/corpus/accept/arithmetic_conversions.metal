// MSL, Type Conversions: scalars convert as in C++.
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]], const device int* b [[buffer(2)]]) {
  float x = a[0];
  half y = x;
  int z = x;
  uint u = b[0];
  short s = b[1];
  out[0] = a[0] * x + b[0] + y;
  out[1] = float(z + int(u) + s);
  out[2] = x > 1 ? 1 : 0;
}
