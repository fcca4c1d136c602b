// expect compile: use of undeclared identifier '__syncthreads'
// expect reserved: __syncthreads belongs to the compiler
kernel void f(device float* out [[buffer(0)]]) {
  __syncthreads();
}
