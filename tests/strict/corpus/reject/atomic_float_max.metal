// expect compile: no matching function for call to 'atomic_fetch_max_explicit'
kernel void f(device atomic<float>* out [[buffer(0)]]) {
  atomic_fetch_max_explicit(out, 1.0f, memory_order_relaxed);
}
