// expect compile: no matching function|cannot initialize a parameter|no known conversion
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup_barrier(2);
}
