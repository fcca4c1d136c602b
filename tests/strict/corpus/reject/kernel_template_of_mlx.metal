// expect compile: changes address space of pointer
template <typename T, int N>
[[kernel]] void custom_kernel_first(
  const device T* x [[buffer(0)]],
  device T* y [[buffer(1)]]) {
threadgroup T row[N];
threadgroup T* p = row;
p = x;
y[0] = p[0];
}

template [[host_name("custom_kernel_first")]] [[kernel]] decltype(custom_kernel_first<float, 4>) custom_kernel_first<float, 4>;
