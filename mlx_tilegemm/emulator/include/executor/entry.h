// Describes the parameters of a kernel. The driver appends a call of it to each text.
#pragma once

#include "msl/call.h"
#include "msl/dialect.h"
#include "runtime.h"

namespace msl_rt {

template <typename T>
inline constexpr bool is_const = false;
template <typename T>
inline constexpr bool is_const<const T> = true;

template <typename T>
inline constexpr uint32_t element_flags = is_const<T> ? parameter_const : 0u;

template <typename P>
struct Described {
  static constexpr Parameter value = {0, 0, 0, 0};
};
template <typename T>
struct Described<T*> {
  static constexpr Parameter value = {
      parameter_pointer | element_flags<T>, sizeof(T), alignof(T), scalar_size<T>};
};
template <>
struct Described<void*> {
  static constexpr Parameter value = {parameter_pointer, 1, 1, 1};
};
template <>
struct Described<const void*> {
  static constexpr Parameter value = {parameter_pointer | parameter_const, 1, 1, 1};
};
template <typename T>
struct Described<T&> {
  static constexpr Parameter value = {
      parameter_reference | element_flags<T>, sizeof(T), alignof(T), scalar_size<T>};
};

template <typename... P>
MSL_RT_UNCHECKED uint32_t describe(void (*)(P...), Parameter* parameters) {
  const Parameter all[] = {Described<P>::value..., Parameter{}};
  for (uint32_t i = 0; i < sizeof...(P); ++i) parameters[i] = all[i];
  return sizeof...(P);
}

}  // namespace msl_rt
