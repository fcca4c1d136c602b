// expect compile: no matching function for call to 'atomic_fetch_add_explicit'
kernel void f(device atomic_int* out [[buffer(0)]]) {
  atomic_fetch_add_explicit(out, 1);
}
