// Attribute names are not keywords.
kernel void f(device float* out [[buffer(0)]]) {
  bool visible = true;
  float position = 1.0f;
  int buffer = 0;
  out[buffer] = visible ? position : 0.0f;
}
