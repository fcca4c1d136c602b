// expect mixed-conditional: the arms of the conditional are half and float
// Legal Metal, ambiguous where half is a class.
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  out[0] = out[1] > 0.0f ? a[0] : out[2];
}
