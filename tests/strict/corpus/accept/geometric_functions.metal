kernel void f(device float* out [[buffer(0)]], const device float3* a [[buffer(1)]]) {
  out[0] = dot(a[0], a[1]) + length(a[0]) + distance(a[0], a[1]);
  float3 n = normalize(cross(a[0], a[1]));
  out[1] = n.z;
}
