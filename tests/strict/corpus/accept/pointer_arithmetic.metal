kernel void f(device float* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  const device float* p = a + 4;
  const device float* end = &a[16];
  float total = 0.0f;
  while (p < end) {
    total += *p++;
  }
  out[0] = total + float(end - a);
}
