kernel void f(device int* out [[buffer(0)]], device float* g [[buffer(1)]]) {
  out[0] = ceildiv(out[1], 8);
  g[0] = log1p(g[1]);
  g[1] = cast_to<float>(out[2]);
  complex64_t z = complex64_t(1.0f, 2.0f);
  g[2] = (z * z).real;
  ConditionalType<true, float, half>::type x = 1.0f;
  g[3] = x;
}
