// expect compile: must reside in constant address space
// expect program-scope: .*
// MSL, Constant Address Space.
int counter = 0;
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = counter;
}
