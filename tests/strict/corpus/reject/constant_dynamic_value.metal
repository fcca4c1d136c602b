// expect compile: .*
// MSL, Constant Address Space: the initialiser is a constant expression.
int length();
constant int LENGTH = length();
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = LENGTH;
}
