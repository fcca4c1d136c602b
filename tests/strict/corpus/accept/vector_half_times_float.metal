// MSL, Operators: a scalar converts to the element type of the vector.
kernel void f(device half4* out [[buffer(0)]], const constant float& scale [[buffer(1)]]) {
  out[0] = out[1] * scale;
}
