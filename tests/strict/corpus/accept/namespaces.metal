namespace tile {
constant constexpr int LENGTH = 8;
METAL_FUNC int area() {
  return LENGTH * LENGTH;
}
}  // namespace tile
kernel void f(device int* out [[buffer(0)]]) {
  using namespace tile;
  out[0] = area() + tile::LENGTH;
}
