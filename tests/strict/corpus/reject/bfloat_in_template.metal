// expect bfloat: float becomes bfloat without a cast
template <typename T>
void store(device T* out, float value) {
  out[0] = value;
}
kernel void f(device bfloat* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  store<bfloat>(out, a[0]);
}
