// expect compile: atomic holds int, uint, float or bool
// MSL, Atomic Data Types.
kernel void f(device atomic<half>* out [[buffer(0)]]) {
  atomic_store_explicit(out, half(1.0h), memory_order_relaxed);
}
