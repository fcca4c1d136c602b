// expect compile: .*
struct complex64_t {
  float re;
  float im;
};
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
