kernel void f(device float* out [[buffer(0)]]) {
  metal::array<float, 4> own = {1.0f, 2.0f, 3.0f, 4.0f};
  own[1] = own[2];
  out[0] = own[1] + float(own.size());
}
