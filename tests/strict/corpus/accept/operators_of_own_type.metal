struct Complex {
  float re;
  float im;
};
METAL_FUNC Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
kernel void f(device Complex* out [[buffer(0)]], const device Complex* a [[buffer(1)]]) {
  out[0] = a[0] * a[1];
}
