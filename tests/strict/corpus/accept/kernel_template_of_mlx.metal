template <typename T, int N, bool Negate>
METAL_FUNC T sum(const threadgroup T* x) {
  T s = T(0);
  for (int i = 0; i < N; i++) {
    s += x[i];
  }
  return Negate ? -s : s;
}

template <typename T, int N, bool Negate>
[[kernel]] void custom_kernel_sums(
  const device T* x [[buffer(0)]],
  device T* y [[buffer(1)]],
  uint3 thread_position_in_threadgroup [[thread_position_in_threadgroup]]) {
threadgroup T row[N];
row[thread_position_in_threadgroup.x] = x[thread_position_in_threadgroup.x];
threadgroup_barrier(mem_flags::mem_threadgroup);
y[0] = sum<T, N, Negate>(row);
}

template [[host_name("custom_kernel_sums")]] [[kernel]] decltype(custom_kernel_sums<float, 4, 1>) custom_kernel_sums<float, 4, 1>;
