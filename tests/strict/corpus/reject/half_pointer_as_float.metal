// expect compile: cannot initialize a variable
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  const device float* p = a;
  out[0] = p[0];
}
