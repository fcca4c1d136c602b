// expect compile: must reside in constant address space
// expect program-scope: .*
device float scratch[4];
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = scratch[0];
}
