// expect literal: 1e-5 needs an f or an h
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = out[1] + float(1e-5);
}
