// expect compile: .*
struct View {
  const device float* p;
};
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup float tile[4];
  View view;
  view.p = tile;
  out[0] = view.p[0];
}
