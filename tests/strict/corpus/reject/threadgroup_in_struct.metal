// expect compile: field may not be qualified with an address space
// expect threadgroup-scope: .*
struct Tile {
  threadgroup float at[4];
};
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
