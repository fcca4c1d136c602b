// expect reserved: _Tile belongs to the compiler
struct _Tile {
  float at[4];
};
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
