constant constexpr int LENGTH = 4;
constant float TABLE[LENGTH] = {1.0f, 2.0f, 3.0f, 4.0f};
static constant constexpr const int STEP = LENGTH / 2;
constexpr constant float HALF_PI = M_PI_F / 2.0f;
kernel void f(device float* out [[buffer(0)]]) {
  for (int i = 0; i < LENGTH; i += STEP) {
    out[i] = TABLE[i] * HALF_PI;
  }
}
