// expect compile: no matching function for call to 'first'
float first(const threadgroup float* p) {
  return p[0];
}
kernel void f(device float* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  out[0] = first(a);
}
