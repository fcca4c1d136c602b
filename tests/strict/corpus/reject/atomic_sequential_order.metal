// expect compile: use of undeclared identifier 'memory_order_seq_cst'
// MSL, Atomic Functions: before Metal 3.2 the order is relaxed.
kernel void f(device atomic_int* out [[buffer(0)]]) {
  atomic_fetch_add_explicit(out, 1, memory_order_seq_cst);
}
