kernel void f(device float* out [[buffer(0)]]) {
  out[0] = INFINITY;
  out[1] = -INFINITY;
  out[2] = NAN;
  out[3] = M_PI_F + M_LOG2E_F + FLT_MAX + FLT_EPSILON;
  out[4] = float(INT_MAX) + MAXFLOAT;
}
