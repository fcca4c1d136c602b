// What MLX's own prelude gives a kernel.
#pragma once

typedef half float16_t;
typedef bfloat bfloat16_t;

template <typename T>
struct WorkPerThread {
  static constexpr constant int n = 8 / sizeof(T);
};

template <typename T>
struct Limits {
  static constexpr constant T max = numeric_limits<T>::max();
  static constexpr constant T min = numeric_limits<T>::lowest();
  static constexpr constant T finite_max = numeric_limits<T>::max();
  static constexpr constant T finite_min = numeric_limits<T>::lowest();
};
template <>
struct Limits<float> {
  static constexpr constant float max = INFINITY;
  static constexpr constant float min = -INFINITY;
  static constexpr constant float finite_max = FLT_MAX;
  static constexpr constant float finite_min = -FLT_MAX;
};

template <bool B, typename T, typename U>
struct ConditionalType : conditional<B, T, U> {};

struct complex64_t {
  float real, imag;
  complex64_t() = default;
  METAL_FUNC complex64_t(float real, float imag = 0.0f) : real(real), imag(imag) {}
};

template <typename T, typename U>
METAL_FUNC T ceildiv(T n, U m) {
  return (n + m - 1) / m;
}

template <typename I = int64_t>
METAL_FUNC I elem_to_loc(
    I element, constant const int* shape, constant const int64_t* strides, int dimensions) {
  I at = 0;
  for (int i = dimensions - 1; i >= 0 && element > 0; --i) {
    at += (element % shape[i]) * I(strides[i]);
    element /= shape[i];
  }
  return at;
}
