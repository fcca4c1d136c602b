// Calls a kernel with the arguments of one thread. The driver appends such a call to each text.
#pragma once

#include "dialect.h"
#include "runtime.h"
#include "types.h"

namespace msl_rt {

// A buffer, or threadgroup memory that comes as an argument.
struct Memory {
  void* address;
};

template <typename P>
struct Converted {  // thread attributes of one component
  static P from(uint32_t value) { return static_cast<P>(value); }
  static P from(Extent value) { return static_cast<P>(value.x); }
};
template <typename T>
struct Converted<metal::vec<T, 2>> {
  static metal::vec<T, 2> from(Extent value) { return {T(value.x), T(value.y)}; }
};
template <typename T>
struct Converted<metal::vec<T, 3>> {
  static metal::vec<T, 3> from(Extent value) { return {T(value.x), T(value.y), T(value.z)}; }
};
template <typename T>
struct Converted<T*> {
  static T* from(Memory memory) { return static_cast<T*>(memory.address); }
};
template <typename T>
struct Converted<T&> {
  static T& from(Memory memory) { return *static_cast<T*>(memory.address); }
};

template <typename... P, typename... Source>
inline void call(void (*function)(P...), Source... sources) {
  function(Converted<P>::from(sources)...);
}

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
