kernel void f(device uint* out [[buffer(0)]], const device float* a [[buffer(1)]], const device half2* h [[buffer(2)]]) {
  out[0] = as_type<uint>(a[0]);
  out[1] = as_type<uint>(h[0]);
  out[2] = as_type<uint>(as_type<float>(out[3]) + 1.0f);
  ushort bits = as_type<ushort>(h[0].x);
  out[4] = uint(as_type<bfloat>(bits) > bfloat(0.0f));
}
