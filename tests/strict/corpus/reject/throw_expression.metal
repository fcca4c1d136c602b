// expect exception: .*
// expect compile: cannot use 'throw'
// expect word: Metal has no exceptions
kernel void f(device float* out [[buffer(0)]]) {
  throw 1;
}
