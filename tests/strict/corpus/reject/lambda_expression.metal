// expect lambda: lambdas need Metal 3.2
// MSL, Restrictions: before Metal 3.2.
kernel void f(device float* out [[buffer(0)]]) {
  auto twice = [](float x) { return x + x; };
  out[0] = twice(1.0f);
}
