// One overload is better than the others.
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = pow(out[1], 2);
}
