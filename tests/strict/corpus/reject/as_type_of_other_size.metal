// expect compile: no matching function for call to 'as_type'
// MSL, Re-interpreting Data: both types have one size.
kernel void f(device ushort* out [[buffer(0)]], const device float* a [[buffer(1)]]) {
  out[0] = as_type<ushort>(a[0]);
}
