// expect compile: no viable overloaded '\+='
kernel void f(device int4* out [[buffer(0)]]) {
  int4 x = out[0];
  x += 2.5f;
  out[1] = x;
}
