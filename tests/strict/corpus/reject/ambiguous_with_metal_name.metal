// expect compile: use of undeclared identifier 'v'
// expect compile: reference to 'vec' is ambiguous
struct vec {
  float at[4];
};
kernel void f(device float* out [[buffer(0)]]) {
  vec v;
  out[0] = v.at[0];
}
