template <typename T>
struct Width {
  static constant constexpr const int value = int(16 / sizeof(T));
};
kernel void f(device int* out [[buffer(0)]]) {
  out[0] = Width<half>::value + Width<float>::value;
}
