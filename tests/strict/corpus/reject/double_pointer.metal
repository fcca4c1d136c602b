// expect compile: .*
// expect word: Metal has no double
kernel void f(device double* out [[buffer(0)]]) {
}
