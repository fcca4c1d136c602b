// expect compile: no matching function for call to 'atomic_fetch_add_explicit'
kernel void f(device int* out [[buffer(0)]]) {
  atomic_fetch_add_explicit(out, 1, memory_order_relaxed);
}
