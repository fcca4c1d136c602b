// expect storage: x has a storage class Metal refuses
// expect compile: .*
// expect word: Metal has no storage class thread_local
// expect program-scope: .*
thread_local int x = 0;
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = 1;
}
