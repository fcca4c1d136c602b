kernel void f(device long* out [[buffer(0)]], const device uchar* a [[buffer(1)]], const device short* b [[buffer(2)]]) {
  uint8_t x = a[0];
  int16_t y = b[0];
  uint64_t z = uint64_t(x) << 32;
  size_t offset = size_t(y) * sizeof(float);
  ptrdiff_t back = -1;
  out[offset] = long(z) + back;
}
