// expect recursion: factorial can call itself
// MSL, Restrictions.
int factorial(int n) {
  return n < 2 ? 1 : n * factorial(n - 1);
}
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = factorial(out[1]);
}
