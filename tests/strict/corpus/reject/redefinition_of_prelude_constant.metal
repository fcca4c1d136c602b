// expect compile: .*
constant constexpr int REDUCE_N_READS = 8;
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = REDUCE_N_READS;
}
