// expect compile: .*
// expect word: C\+\+20's concept
template <typename T>
concept Small = sizeof(T) < 4;
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
