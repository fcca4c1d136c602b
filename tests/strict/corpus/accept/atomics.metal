// MSL, Atomic Functions.
kernel void f(device atomic<int>* out [[buffer(0)]], device atomic_uint* counts [[buffer(1)]], device atomic<float>* sums [[buffer(2)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup atomic_int local_count;
  if (i == 0) {
    atomic_store_explicit(&local_count, 0, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&local_count, 1, memory_order_relaxed);
  atomic_fetch_max_explicit(&counts[1], 3u, memory_order_relaxed);
  atomic_fetch_add_explicit(&sums[0], 1.0f, memory_order_relaxed);
  int expected = 1;
  atomic_compare_exchange_weak_explicit(
      &out[0], &expected, 2, memory_order_relaxed, memory_order_relaxed);
  atomic_exchange_explicit(&out[1], atomic_load_explicit(&local_count, memory_order_relaxed), memory_order_relaxed);
}
