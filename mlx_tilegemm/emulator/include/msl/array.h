// metal::array.
#pragma once

#include "types.h"

namespace metal {

template <class T, size_t N>
struct array {
  using value_type = T;
  T elements_[N];

  constexpr T& operator[](size_t i) { return elements_[MSL_WITHIN(N, i)]; }
  constexpr const T& operator[](size_t i) const { return elements_[MSL_WITHIN(N, i)]; }
  constexpr T* data() { return elements_; }
  constexpr const T* data() const { return elements_; }
  constexpr T* begin() { return elements_; }
  constexpr const T* begin() const { return elements_; }
  constexpr T* end() { return elements_ + N; }
  constexpr const T* end() const { return elements_ + N; }
  constexpr T& front() { return elements_[0]; }
  constexpr const T& front() const { return elements_[0]; }
  constexpr T& back() { return elements_[N - 1]; }
  constexpr const T& back() const { return elements_[N - 1]; }
  static constexpr size_t size() { return N; }
  static constexpr bool empty() { return N == 0; }
  constexpr void fill(const T& value) {
    for (T& element : elements_) {
      element = value;
    }
  }
};

template <class T, class... U>
array(T, U...) -> array<T, 1 + sizeof...(U)>;

template <class T, size_t N>
constexpr bool operator==(const array<T, N>& a, const array<T, N>& b) {
  for (size_t i = 0; i < N; ++i) {
    if (!(a[i] == b[i])) {
      return false;
    }
  }
  return true;
}
template <class T, size_t N>
constexpr bool operator!=(const array<T, N>& a, const array<T, N>& b) {
  return !(a == b);
}

}  // namespace metal
