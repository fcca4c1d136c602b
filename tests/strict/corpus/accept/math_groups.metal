// MSL, Math Functions: the fast and precise variants.
kernel void f(device float* out [[buffer(0)]]) {
  float x = out[0];
  out[1] = fast::exp2(x) + precise::exp2(x) + metal::fast::exp(x) + metal::precise::sqrt(x);
  out[2] = precise::log2(x) + fast::rsqrt(x) + precise::divide(x, x);
}
