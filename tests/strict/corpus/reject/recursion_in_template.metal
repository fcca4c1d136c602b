// expect recursion: depth can call itself
template <typename T>
T depth(T n) {
  return n < T(1) ? T(0) : depth(n - T(1));
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = depth(out[1]);
}
