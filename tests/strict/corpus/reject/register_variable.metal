// expect compile: .*
// expect word: Metal has no storage class register
kernel void f(device int* out [[buffer(0)]]) {
  register int x = 1;
  out[0] = x;
}
