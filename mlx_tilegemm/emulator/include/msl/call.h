// Calls a kernel with the arguments of one thread. The driver appends such a call to each text.
#pragma once

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

}  // namespace msl_rt
