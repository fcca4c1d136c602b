// expect compile: automatic variable qualified with an address space|.*
kernel void f(device float* out [[buffer(0)]]) {
  device float x;
  out[0] = 1.0f;
}
