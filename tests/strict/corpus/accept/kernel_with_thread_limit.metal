[[max_total_threads_per_threadgroup(128)]]
[[kernel]] void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
