kernel void f(device half* out [[buffer(0)]]) {
  out[0] = 0.5h;
  out[1] = half(1.5f);
  out[2] = 2;
  out[3] = out[0] * 2.0h + 1.0h;
}
