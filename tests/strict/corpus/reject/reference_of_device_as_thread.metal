// expect compile: .*
void increment(thread float& x) {
  x += 1.0f;
}
kernel void f(device float* out [[buffer(0)]]) {
  increment(out[0]);
}
