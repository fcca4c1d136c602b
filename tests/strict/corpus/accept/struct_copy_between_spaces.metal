// MLX's loaders move a run of elements so.
template <typename T, int N>
struct Run {
  T at[N];
};
kernel void f(device half* out [[buffer(0)]], const device half* a [[buffer(1)]]) {
  threadgroup half tile[8];
  *reinterpret_cast<threadgroup Run<half, 8>*>(tile) =
      *reinterpret_cast<const device Run<half, 8>*>(a);
  *reinterpret_cast<device Run<half, 8>*>(out) = *reinterpret_cast<threadgroup Run<half, 8>*>(tile);
}
