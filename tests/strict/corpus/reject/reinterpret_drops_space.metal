// expect compile: .*
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  threadgroup half tile[8];
  *reinterpret_cast<device float4*>(tile) = *reinterpret_cast<const device float4*>(a);
  out[0] = 1.0f;
}
