// expect compile: no matching function for call to 'first'
// What MLX does to inputs of fewer than eight elements.
float first(const device float* p) {
  return p[0];
}
kernel void f(device float* out [[buffer(0)]], const constant float* a [[buffer(1)]]) {
  out[0] = first(a);
}
