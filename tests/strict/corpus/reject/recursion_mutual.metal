// expect recursion: even can call itself
// expect recursion: odd can call itself
bool odd(int n);
bool even(int n) {
  return n == 0 || odd(n - 1);
}
bool odd(int n) {
  return n != 0 && even(n - 1);
}
kernel void f(device bool* out [[buffer(0)]]) {
  out[0] = even(4);
}
