// expect compile: read-only variable is not assignable|cannot assign to
// What MLX makes of every input.
kernel void f(const device float* a [[buffer(0)]]) {
  a[0] = 1.0f;
}
