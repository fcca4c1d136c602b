// expect compile: (decomposition|structured binding) declarations
struct Pair {
  float a;
  float b;
};
kernel void f(device float* out [[buffer(0)]]) {
  Pair pair = {1.0f, 2.0f};
  auto [a, b] = pair;
  out[0] = a + b;
}
