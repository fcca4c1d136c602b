// expect compile: no matching function for call to 'simd_sum'
struct Pair {
  float a;
  float b;
};
kernel void f(device Pair* out [[buffer(0)]]) {
  out[0] = simd_sum(out[1]);
}
