// expect compile: .*
// expect word: Metal has no delete
kernel void f(device float* out [[buffer(0)]]) {
  delete out;
}
