// expect compile: no viable
kernel void f(device int4* out [[buffer(0)]], const device uint4* a [[buffer(1)]]) {
  out[0] = a[0];
}
