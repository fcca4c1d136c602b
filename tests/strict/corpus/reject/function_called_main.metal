// expect main: no function may be called main
// expect compile: .*
int main() {
  return 0;
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
