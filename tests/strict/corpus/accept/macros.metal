#define TILE 8
#define SQUARE(x) ((x) * (x))
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup float tile[SQUARE(TILE)];
  tile[0] = 1.0f;
  out[0] = tile[0];
}
