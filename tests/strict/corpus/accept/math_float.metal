kernel void f(device float* out [[buffer(0)]]) {
  float x = out[0];
  out[1] = exp(x) + exp2(x) + log(x) + log2(x) + sqrt(x) + rsqrt(x) + tanh(x) + sin(x) + cos(x);
  out[2] = floor(x) + ceil(x) + round(x) + rint(x) + trunc(x) + fract(x) + abs(x) + fabs(x);
  out[3] = fma(x, x, x) + fmin(x, 1.0f) + fmax(x, 1.0f) + pow(x, 2.0f) + fmod(x, 2.0f);
  out[4] = clamp(x, 0.0f, 1.0f) + saturate(x) + mix(x, 1.0f, 0.5f) + sign(x) + step(0.5f, x);
  out[5] = max3(x, 1.0f, 2.0f) + copysign(x, -1.0f) + atan2(x, x) + ldexp(x, 2);
}
