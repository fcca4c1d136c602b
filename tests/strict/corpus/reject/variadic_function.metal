// expect compile: .*
void log(int count, ...);
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
