// expect compile: no matching function for call to 'atomic_fetch_add_explicit'
// MSL, Atomic Functions: float addition in device memory alone.
kernel void f(device float* out [[buffer(0)]]) {
  threadgroup atomic<float> sum;
  atomic_fetch_add_explicit(&sum, 1.0f, memory_order_relaxed);
}
