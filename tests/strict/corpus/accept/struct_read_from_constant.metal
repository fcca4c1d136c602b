struct Params {
  int rows;
  int columns;
  float scale;
};
kernel void f(device float* out [[buffer(0)]], const constant Params& p [[buffer(1)]]) {
  out[p.rows * p.columns] = p.scale;
}
