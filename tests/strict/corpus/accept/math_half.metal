kernel void f(device half* out [[buffer(0)]]) {
  half x = out[0];
  out[1] = exp(x) + sqrt(x) + max(x, 0.0h) + min(x, half(1)) + fma(x, x, x) + abs(x);
}
