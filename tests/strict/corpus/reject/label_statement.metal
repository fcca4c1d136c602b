// expect goto: Metal has no labels
kernel void f(device int* out [[buffer(0)]]) {
again:
  out[0] = 1;
}
