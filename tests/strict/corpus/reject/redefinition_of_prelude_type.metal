// expect compile: typedef redefinition with different types
typedef float float16_t;
kernel void f(device float16_t* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
