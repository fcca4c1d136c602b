// expect compile: reinterpret_cast from .* is not allowed
kernel void f(device float* out [[buffer(0)]]) {
  float x = 1.0f;
  device float* p = reinterpret_cast<device float*>(&x);
  out[0] = *p;
}
