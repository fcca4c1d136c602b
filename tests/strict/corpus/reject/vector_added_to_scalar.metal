// expect compile: invalid operands|assigning to .* from incompatible type
kernel void f(device int* out [[buffer(0)]], const device int4* a [[buffer(1)]]) {
  int x = out[0];
  x += a[0];
  out[1] = x;
}
