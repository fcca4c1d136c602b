// expect compile: use of undeclared identifier 'get_global_id'
kernel void f(device float* out [[buffer(0)]]) {
  out[get_global_id(0)] = 1.0f;
}
