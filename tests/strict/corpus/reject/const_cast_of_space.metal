// expect compile: const_cast from
kernel void f(device float* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  out[0] = *const_cast<threadgroup float*>(a);
}
