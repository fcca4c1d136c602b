struct Fragment {
  float2 at[2];
};
template <int M, int N>
struct Tile {
  Fragment at[M][N];
};
METAL_FUNC float2 first(const thread Tile<2, 2>& tile) {
  return tile.at[0][1].at[1];
}
kernel void f(device float2* out [[buffer(0)]]) {
  Tile<2, 2> tile;
  tile.at[0][1].at[1] = float2(1.0f, 2.0f);
  out[0] = first(tile);
}
