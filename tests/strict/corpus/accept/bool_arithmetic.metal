kernel void f(device int* out [[buffer(0)]], const device bool* a [[buffer(1)]]) {
  bool flag = out[0] > 3;
  out[1] = flag + 1;
  out[2] = -flag;
  out[3] = a[0] && !flag;
}
