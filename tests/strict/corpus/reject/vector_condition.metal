// expect compile: not contextually convertible to 'bool'
// MSL, Operators: the condition of ?: is a scalar; select takes a vector.
kernel void f(device float4* out [[buffer(0)]]) {
  out[0] = out[1] > out[2] ? out[1] : out[2];
}
