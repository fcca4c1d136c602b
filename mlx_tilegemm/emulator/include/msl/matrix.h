// Matrices of float and half, stored by columns, and <metal_matrix>.
#pragma once

#include "geometric.h"

namespace metal {

template <class T, int C, int R>
struct matrix {
  using column = vec<T, R>;
  column columns[C];

  matrix() = default;
  MSL_INLINE constexpr explicit matrix(T diagonal) : columns{} {
    for (int i = 0; i < C && i < R; ++i) {
      columns[i][i] = diagonal;
    }
  }
  template <
      class... A, class = _impl::when_t<
                      sizeof...(A) == C && (_impl::same<_impl::vec_or_void_t<A>, column> && ...)>>
  MSL_INLINE constexpr matrix(const A&... column_) : columns{column(column_)...} {}
  template <class... A, class = _impl::when_t<sizeof...(A) == C * R &&
                                              ((_impl::kind<A> != 0) && ...)>,
            class = void>
  MSL_INLINE constexpr matrix(A... element) : columns{} {
    const T elements[] = {static_cast<T>(element)...};
    for (int i = 0; i < C * R; ++i) {
      columns[i / R][i % R] = elements[i];
    }
  }
  template <class U>
  MSL_INLINE constexpr explicit matrix(const matrix<U, C, R>& m) : columns{} {
    for (int i = 0; i < C; ++i) {
      columns[i] = column(m[i]);
    }
  }

  MSL_INLINE constexpr column& operator[](int i) { return columns[i]; }
  MSL_INLINE constexpr const column& operator[](int i) const { return columns[i]; }

  friend MSL_INLINE constexpr matrix operator+(matrix a, const matrix& b) { return a += b; }
  friend MSL_INLINE constexpr matrix operator-(matrix a, const matrix& b) { return a -= b; }
  friend MSL_INLINE constexpr matrix operator*(matrix a, T s) { return a *= s; }
  friend MSL_INLINE constexpr matrix operator*(T s, matrix a) { return a *= s; }
  friend MSL_INLINE constexpr matrix operator/(matrix a, T s) { return a /= s; }
  friend MSL_INLINE constexpr matrix operator-(const matrix& a) { return matrix(T(0)) - a; }
  MSL_INLINE constexpr matrix& operator+=(const matrix& b) {
    for (int i = 0; i < C; ++i) {
      columns[i] += b[i];
    }
    return *this;
  }
  MSL_INLINE constexpr matrix& operator-=(const matrix& b) {
    for (int i = 0; i < C; ++i) {
      columns[i] -= b[i];
    }
    return *this;
  }
  MSL_INLINE constexpr matrix& operator*=(T s) {
    for (column& c : columns) {
      c *= s;
    }
    return *this;
  }
  MSL_INLINE constexpr matrix& operator/=(T s) {
    for (column& c : columns) {
      c /= s;
    }
    return *this;
  }
  friend MSL_INLINE constexpr column operator*(const matrix& m, vec<T, C> v) {
    column sum = m[0] * v[0];
    for (int i = 1; i < C; ++i) {
      sum += m[i] * v[i];
    }
    return sum;
  }
  friend MSL_INLINE constexpr vec<T, C> operator*(column v, const matrix& m) {
    vec<T, C> product(T(0));
    for (int i = 0; i < C; ++i) {
      product[i] = dot(v, m[i]);
    }
    return product;
  }
  friend MSL_INLINE constexpr bool operator==(const matrix& a, const matrix& b) {
    bool equal = true;
    for (int i = 0; i < C; ++i) {
      equal = equal && all(a[i] == b[i]);
    }
    return equal;
  }
  friend MSL_INLINE constexpr bool operator!=(const matrix& a, const matrix& b) {
    return !(a == b);
  }
};

template <class T, int C, int R, int K>
MSL_INLINE constexpr matrix<T, C, R> operator*(const matrix<T, K, R>& a,
                                               const matrix<T, C, K>& b) {
  matrix<T, C, R> product;
  for (int i = 0; i < C; ++i) {
    product[i] = a * b[i];
  }
  return product;
}

template <class T, int C, int R>
MSL_INLINE constexpr matrix<T, R, C> transpose(const matrix<T, C, R>& m) {
  matrix<T, R, C> t;
  for (int i = 0; i < C; ++i) {
    for (int j = 0; j < R; ++j) {
      t[j][i] = m[i][j];
    }
  }
  return t;
}

template <class T>
MSL_INLINE constexpr T determinant(const matrix<T, 2, 2>& m) {
  return m[0][0] * m[1][1] - m[1][0] * m[0][1];
}
template <class T>
MSL_INLINE T determinant(const matrix<T, 3, 3>& m) {
  return dot(m[0], cross(m[1], m[2]));
}
template <class T>
MSL_INLINE T determinant(const matrix<T, 4, 4>& m) {
  T sum = T(0);
  for (int i = 0; i < 4; ++i) {
    const int a = i == 0 ? 1 : 0, b = i <= 1 ? 2 : 1, c = i <= 2 ? 3 : 2;
    const T minor = determinant(matrix<T, 3, 3>(m[a].yzw, m[b].yzw, m[c].yzw));
    sum += (i % 2 == 0 ? m[i][0] : -m[i][0]) * minor;
  }
  return sum;
}

#define MSL_MATRIX(C)                                                             \
  using float##C##x2 = matrix<float, C, 2>;                                       \
  using float##C##x3 = matrix<float, C, 3>;                                       \
  using float##C##x4 = matrix<float, C, 4>;                                       \
  using half##C##x2 = matrix<half, C, 2>;                                         \
  using half##C##x3 = matrix<half, C, 3>;                                         \
  using half##C##x4 = matrix<half, C, 4>;
MSL_MATRIX(2)
MSL_MATRIX(3)
MSL_MATRIX(4)
#undef MSL_MATRIX

}  // namespace metal

#define MSL_MATRIX(C)                                                                    \
  using metal::float##C##x2;                                                             \
  using metal::float##C##x3;                                                             \
  using metal::float##C##x4;                                                             \
  using metal::half##C##x2;                                                              \
  using metal::half##C##x3;                                                              \
  using metal::half##C##x4;
MSL_MATRIX(2)
MSL_MATRIX(3)
MSL_MATRIX(4)
#undef MSL_MATRIX
