kernel void f(device float* out [[buffer(0)]]) {
  constexpr int LENGTH = 8;
  const int half_length = LENGTH / 2;
  float own[LENGTH];
  for (short i = 0; i < LENGTH; i++) {
    own[i] = float(i);
  }
  out[0] = own[half_length];
}
