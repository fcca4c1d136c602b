// expect compile: read-only variable is not assignable|cannot assign to
kernel void f(constant float* a [[buffer(0)]]) {
  a[0] = 1.0f;
}
