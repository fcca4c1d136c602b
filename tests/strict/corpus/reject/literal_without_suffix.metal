// expect literal: 2.0 needs an f or an h
kernel void f(device half* out [[buffer(0)]]) {
  out[0] = out[1] * half(2.0);
}
