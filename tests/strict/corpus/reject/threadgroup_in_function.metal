// expect compile: .*
// expect threadgroup-scope: .*
// MSL, Threadgroup Address Space: declared in a kernel function.
float stage(float value) {
  threadgroup float tile[4];
  tile[0] = value;
  return tile[0];
}
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = stage(1.0f);
}
