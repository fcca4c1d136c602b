float from_device(const device float* p) {
  return p[0];
}
float from_threadgroup(const threadgroup float* p) {
  return p[0];
}
float from_thread(const thread float* p) {
  return p[0];
}
kernel void f(device float* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  threadgroup float tile[4];
  float own[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  tile[0] = 0.0f;
  out[0] = from_device(a) + from_device(out) + from_threadgroup(tile) + from_thread(own);
}
