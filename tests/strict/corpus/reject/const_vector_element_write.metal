// expect compile: .*
kernel void f(const device float4* a [[buffer(0)]]) {
  a[0].x = 1.0f;
}
