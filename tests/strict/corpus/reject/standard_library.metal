// expect compile: .*
// expect word: Metal has no std
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = std::max(out[1], out[2]);
}
