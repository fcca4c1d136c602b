// expect compile: no matching function|too few arguments
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup_barrier();
}
