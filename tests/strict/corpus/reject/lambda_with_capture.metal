// expect lambda: lambdas need Metal 3.2
kernel void f(device float* out [[buffer(0)]]) {
  float scale = 2.0f;
  auto twice = [=](float x) { return x * scale; };
  out[0] = twice(1.0f);
}
