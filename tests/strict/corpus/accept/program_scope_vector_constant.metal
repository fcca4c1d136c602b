constant constexpr float4 WEIGHTS = float4(1.0f, 2.0f, 3.0f, 4.0f);
kernel void f(device float4* out [[buffer(0)]]) {
  out[0] = WEIGHTS;
  out[1] = out[0] * WEIGHTS.x;
}
