// expect compile: .*
// expect word: Metal has no double
// MSL, Scalar Data Types.
kernel void f(device float* out [[buffer(0)]]) {
  double x = 1.0f;
  out[0] = float(x);
}
