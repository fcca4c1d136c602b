kernel void f(device int* out [[buffer(0)]]) {
  out[0] = abs(out[1]) + min(out[1], out[2]) + max(out[1], 3) + clamp(out[1], 0, 7);
  out[1] = absdiff(out[1], out[2]) + addsat(out[1], out[2]) + mul24(out[1], out[2]);
}
