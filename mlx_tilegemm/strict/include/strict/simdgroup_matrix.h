// <metal_simdgroup_matrix>: half, bfloat and float, 8x8.
#pragma once

#include "simd.h"

namespace metal {

template <typename T, int C, int R>
struct simdgroup_matrix {
  static_assert(C == 8 && R == 8, "simdgroup_matrix is 8x8");
  static_assert(strict::kind_of<T>::value == strict::is_float ||
                    strict::kind_of<T>::value == strict::is_bfloat,
                "simdgroup_matrix holds half, bfloat or float");
  // What a lane holds; its type has no name, so it is read through a cast or an index.
  struct storage {
    template <typename I, STRICT_IF(strict::is_index<I>::value)>
    thread T& operator[](I) thread;

   private:
    T elements[2];
  };

  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) thread;
  thread storage& thread_elements() thread;

 private:
  storage elements;
};

typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;

template <typename T, int C, int R = C>
simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T);
template <typename T, int C, int R = C>
simdgroup_matrix<T, C, R> make_diagonal_simdgroup_matrix(T);

#define STRICT_LOAD(SPACE)                                                                     \
  template <typename T, int C, int R>                                                          \
  void simdgroup_load(thread simdgroup_matrix<T, C, R>&, const SPACE T*, ulong row_stride = C, \
                      vec<ulong, 2> origin = 0, bool transpose = false);
STRICT_LOAD(device)
STRICT_LOAD(threadgroup)
#undef STRICT_LOAD
#define STRICT_STORE(SPACE)                                                               \
  template <typename T, int C, int R>                                                     \
  void simdgroup_store(thread const simdgroup_matrix<T, C, R>&, SPACE T*, ulong row_stride = C, \
                       vec<ulong, 2> origin = 0, bool transpose = false);
STRICT_STORE(device)
STRICT_STORE(threadgroup)
#undef STRICT_STORE

template <typename D, typename A, typename B>
void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>&, thread simdgroup_matrix<A, 8, 8>&,
                        thread simdgroup_matrix<B, 8, 8>&);
template <typename D, typename A, typename B, typename E>
void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>&,
                                   thread simdgroup_matrix<A, 8, 8>&,
                                   thread simdgroup_matrix<B, 8, 8>&,
                                   thread simdgroup_matrix<E, 8, 8>&);
template <typename T>
simdgroup_matrix<T, 8, 8> operator*(thread const simdgroup_matrix<T, 8, 8>&,
                                    thread const simdgroup_matrix<T, 8, 8>&);

}  // namespace metal
