// expect compile: must reside in constant address space
// expect program-scope: .*
const int LENGTH = 4;
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = LENGTH;
}
