template <typename T, typename U = float, int N = 4>
struct Sum {
  METAL_FUNC static U apply(const device T* a) {
    U total = U(0);
    for (int i = 0; i < N; ++i) {
      total += U(a[i]);
    }
    return total;
  }
};
template <>
struct Sum<int, int, 1> {
  METAL_FUNC static int apply(const device int* a) { return a[0]; }
};
kernel void f(device float* out [[buffer(0)]], const device half* a [[buffer(1)]], const device int* b [[buffer(2)]]) {
  out[0] = Sum<half>::apply(a) + float(Sum<int, int, 1>::apply(b));
}
