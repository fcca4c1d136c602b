// expect compile: no viable
// MSL, Type Conversions: no implicit conversions between vector types.
kernel void f(device half4* out [[buffer(0)]], const device float4* a [[buffer(1)]]) {
  out[0] = a[0];
}
