// The elements of a matrix that a lane holds, and products of matrices. Included by
// msl/simdgroup_matrix.h.
#pragma once

#include "runtime.h"

namespace metal {

namespace _impl {

// Marks a matrix element that was never set. A NaN that no arithmetic makes.
template <class T>
struct unset {};
template <>
struct unset<float> {
  using bits_type = uint;
  static constexpr bits_type bits = 0x7fe5a5a5u;
};
template <>
struct unset<half> {
  using bits_type = ushort;
  static constexpr bits_type bits = 0x7f5au;
};
template <>
struct unset<bfloat> {
  using bits_type = ushort;
  static constexpr bits_type bits = 0x7fe5u;
};

template <class T>
MSL_INLINE bool is_unset(const vec<T, 2>& pair) {
  typename unset<T>::bits_type bits[2];
  __builtin_memcpy(bits, &pair, sizeof(bits));
  return bits[0] == unset<T>::bits || bits[1] == unset<T>::bits;
}

template <class T>
MSL_INLINE msl_rt::Pair to_pair(const vec<T, 2>& pair) {
  return {static_cast<float>(pair[0]), static_cast<float>(pair[1])};
}

}  // namespace _impl

// A matrix that a product was added to holds a ticket until somebody looks at its elements: the
// sums of many products are computed together, when all lanes have left their parts.
template <typename T, int Cols, int Rows = Cols>
struct simdgroup_matrix {
  static_assert(Cols == 8 && Rows == 8, "simdgroup_matrix is 8x8 only");
  using storage_type = vec<T, 2>;

#if defined(MSL_RT_MARKED)
  MSL_INLINE simdgroup_matrix() {
    constexpr typename _impl::unset<T>::bits_type bits[2] = {
        _impl::unset<T>::bits, _impl::unset<T>::bits};
    __builtin_memcpy(&elements_, bits, sizeof(bits));
    expect(0);
  }
#else
  MSL_INLINE simdgroup_matrix() { expect(0); }
#endif

  // A diagonal matrix.
  explicit simdgroup_matrix(T value) {
    const uint lane = msl_rt_lane();
    const uint row = _impl::fragment_row(lane);
    const uint column = _impl::fragment_column(lane);
    elements_[0] = row == column ? value : T(0);
    elements_[1] = row == column + 1 ? value : T(0);
    expect(0);
  }

  MSL_INLINE simdgroup_matrix(const simdgroup_matrix& other)
      : elements_(other.thread_elements()) {
    expect(0);
  }

  MSL_INLINE simdgroup_matrix& operator=(const simdgroup_matrix& other) {
    const storage_type elements = other.thread_elements();
    thread_elements() = elements;
    return *this;
  }

  MSL_INLINE ~simdgroup_matrix() { settle(); }

  MSL_INLINE storage_type& thread_elements() {
    settle();
    return elements_;
  }

  MSL_INLINE const storage_type& thread_elements() const {
    settle();
    return elements_;
  }

  // The elements before what is due is added to them.
  MSL_INLINE storage_type& unsettled_elements() { return elements_; }

  MSL_RT_UNTRACKED MSL_INLINE void expect(uint ticket) { ticket_.number = ticket; }

 private:
  MSL_RT_UNTRACKED MSL_INLINE void settle() const {
    if (ticket_.number == 0) return;
    msl_rt_settle(ticket_.number);
    ticket_.number = 0;
  }

  storage_type elements_;
  mutable msl_rt::Bookkeeping ticket_;
};

namespace _impl {

MSL_INLINE void note_operands(
    const volatile void* address, ulong stride, ulong2 origin, bool transpose, bool stores,
    msl_rt::Site site) {
#if defined(MSL_RT_CHECKED)
  const ulong hash = reinterpret_cast<ulong>(address) * 31 + stride * 1000003 + origin.x * 7919 +
                     origin.y * 104729 + (transpose ? 17 : 0);
  msl_rt_uniform(hash + static_cast<ulong>(site.line), stores, site.file, site.line);
#endif
}

template <class T>
MSL_INLINE void check_marks(const vec<T, 2>& pair, const char* what, msl_rt::Site site) {
#if defined(MSL_RT_MARKED)
  if (is_unset(pair)) msl_rt_uninitialized(what, site.file, site.line);
#endif
}

template <class T>
inline constexpr msl_rt::ElementType element_type = msl_rt::ElementType::float32;
template <>
inline constexpr msl_rt::ElementType element_type<half> = msl_rt::ElementType::float16;
template <>
inline constexpr msl_rt::ElementType element_type<bfloat> = msl_rt::ElementType::bfloat16;

// sum += a * b
template <class T, class A, class B, int N>
MSL_INLINE void add_product(
    simdgroup_matrix<T, N, N>& sum, const simdgroup_matrix<A, N, N>& a,
    const simdgroup_matrix<B, N, N>& b, msl_rt::Site site) {
  check_marks(a.thread_elements(), "left operand of a matrix product", site);
  check_marks(b.thread_elements(), "right operand of a matrix product", site);
  check_marks(sum.unsettled_elements(), "accumulator of a matrix product", site);
  sum.expect(msl_rt_multiply_accumulate(
      &sum.unsettled_elements(), element_type<T>, to_pair(a.thread_elements()),
      to_pair(b.thread_elements()), site.file, site.line));
}

}  // namespace _impl

}  // namespace metal

namespace msl_rt {

template <typename T>
inline constexpr uint32_t scalar_size<metal::simdgroup_matrix<T, 8, 8>> = sizeof(T);

}  // namespace msl_rt
