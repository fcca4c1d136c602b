struct Tile {
  simdgroup_matrix<float, 8, 8> at[2][2];
};
METAL_FUNC void fill(thread Tile& tile) {
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      tile.at[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
  }
}
kernel void f(device float* out [[buffer(0)]]) {
  Tile tile;
  fill(tile);
  simdgroup_store(tile.at[1][0], out, 8);
}
