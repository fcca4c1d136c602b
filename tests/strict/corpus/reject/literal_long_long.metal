// expect literal: 2ll is no literal of Metal
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = int(2ll);
}
