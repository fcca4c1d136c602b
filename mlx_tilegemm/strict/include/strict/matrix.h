// floatCxR and halfCxR: C columns of R elements.
#pragma once

#include "vector.h"

namespace metal {

template <typename T, int C, int R>
struct matrix {
  matrix() = default;
  constexpr matrix(const matrix&) = default;
  matrix(const __constant matrix&);
  matrix& operator=(const matrix&) = default;
  matrix& operator=(const __constant matrix&);
  explicit matrix(T diagonal);
  template <typename... U, STRICT_IF(sizeof...(U) == C || sizeof...(U) == C * R)>
  matrix(U... each);
  template <typename I, STRICT_IF(strict::is_index<I>::value)>
  vec<T, R>& operator[](I);
  template <typename I, STRICT_IF(strict::is_index<I>::value)>
  vec<T, R> operator[](I) const;
  template <typename I, STRICT_IF(strict::is_index<I>::value)>
  vec<T, R> operator[](I) const __constant;

 private:
  vec<T, R> columns[C];
};

template <typename T, int C, int R>
matrix<T, C, R> operator+(matrix<T, C, R>, matrix<T, C, R>);
template <typename T, int C, int R>
matrix<T, C, R> operator-(matrix<T, C, R>, matrix<T, C, R>);
template <typename T, int C, int R, int K>
matrix<T, C, R> operator*(matrix<T, K, R>, matrix<T, C, K>);
template <typename T, int C, int R>
vec<T, R> operator*(matrix<T, C, R>, vec<T, C>);
template <typename T, int C, int R>
vec<T, C> operator*(vec<T, R>, matrix<T, C, R>);
template <typename T, int C, int R>
matrix<T, C, R> operator*(matrix<T, C, R>, T);
template <typename T, int C, int R>
matrix<T, C, R> operator*(T, matrix<T, C, R>);
template <typename T, int C, int R>
matrix<T, R, C> transpose(matrix<T, C, R>);
template <typename T, int N>
T determinant(matrix<T, N, N>);

#define STRICT_MATRIX(C, R)          \
  typedef matrix<float, C, R> float##C##x##R; \
  typedef matrix<half, C, R> half##C##x##R;
STRICT_MATRIX(2, 2)
STRICT_MATRIX(2, 3)
STRICT_MATRIX(2, 4)
STRICT_MATRIX(3, 2)
STRICT_MATRIX(3, 3)
STRICT_MATRIX(3, 4)
STRICT_MATRIX(4, 2)
STRICT_MATRIX(4, 3)
STRICT_MATRIX(4, 4)
#undef STRICT_MATRIX

}  // namespace metal
