enum Mode { FIRST, SECOND };
enum class Layout : int { ROW = 0, COLUMN = 1 };
template <Layout L>
METAL_FUNC int stride(int rows, int columns) {
  return L == Layout::ROW ? columns : rows;
}
kernel void f(device int* out [[buffer(0)]]) {
  Mode mode = SECOND;
  out[0] = stride<Layout::COLUMN>(int(mode), 3);
}
