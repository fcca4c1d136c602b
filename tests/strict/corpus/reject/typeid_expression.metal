// expect compile: .*
// expect word: Metal has no typeid
kernel void f(device bool* out [[buffer(0)]]) {
  out[0] = typeid(int) == typeid(float);
}
