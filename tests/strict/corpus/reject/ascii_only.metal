// expect ascii: .*
// Metal source goes to MLX as ASCII.  ×
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
