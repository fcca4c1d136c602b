struct Flags {
  uint low : 4;
  uint high : 4;
};
kernel void f(device uint* out [[buffer(0)]]) {
  Flags flags;
  flags.low = 3;
  flags.high = 5;
  uint i, j;
  for (i = 0, j = 4; i < j; ++i, --j) {
    out[i] = flags.low + flags.high;
  }
}
