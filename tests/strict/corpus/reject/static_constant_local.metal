// expect static-local: .*
kernel void f(device int* out [[buffer(0)]]) {
  static constant constexpr int LENGTH = 4;
  out[0] = LENGTH;
}
