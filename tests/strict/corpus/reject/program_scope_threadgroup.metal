// expect compile: must reside in constant address space
// expect program-scope: .*
// expect threadgroup-scope: .*
threadgroup float tile[4];
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = tile[0];
}
