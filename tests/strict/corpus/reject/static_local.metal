// expect compile: .*
// expect static-local: .*
kernel void f(device int* out [[buffer(0)]]) {
  static int calls = 0;
  out[0] = ++calls;
}
