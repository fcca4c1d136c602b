// expect compile: class template argument deduction
// Metal 3 is C++14.
template <typename T>
struct Box {
  T value;
  Box(T v) thread : value(v) {}
};
kernel void f(device float* out [[buffer(0)]]) {
  Box box(1.0f);
  out[0] = box.value;
}
