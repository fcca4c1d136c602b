// Legal where the address is aligned.
kernel void f(device half* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  threadgroup half tile[8];
  *reinterpret_cast<threadgroup half4*>(tile) = *reinterpret_cast<const device half4*>(a);
  *((device half4*)out) = *((threadgroup half4*)tile);
}
