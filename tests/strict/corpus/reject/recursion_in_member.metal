// expect recursion: walk can call itself
struct Walker {
  int steps;
  int walk(int n) thread { return n == 0 ? steps : walk(n - 1); }
};
kernel void f(device int* out [[buffer(0)]]) {
  Walker w;
  w.steps = 1;
  out[0] = w.walk(3);
}
