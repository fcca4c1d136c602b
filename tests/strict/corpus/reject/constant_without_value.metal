// expect compile: variable in constant address space must be initialized
constant int LENGTH;
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = LENGTH;
}
