// expect compile: cannot initialize a variable
kernel void f(device float* out [[buffer(0)]], const constant float* a [[buffer(1)]]) {
  const thread float* p = a;
  out[0] = *p;
}
