// expect compile: .*
// expect word: Metal has no new
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = *new float(1.0f);
}
