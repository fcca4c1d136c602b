// What a GPU has and the emulator has not: each use is an error that names the construct.
#pragma once

#include "types.h"

namespace metal {

enum class access { sample, read, write, read_write };

#define MSL_UNSUPPORTED_TYPE(name)                                                             \
  template <class T = void, access A = access::sample>                                         \
  struct name {                                                                                \
    static_assert(_impl::never<T>, "metal::" #name " is not supported by the emulator");       \
  };
MSL_UNSUPPORTED_TYPE(texture1d)
MSL_UNSUPPORTED_TYPE(texture1d_array)
MSL_UNSUPPORTED_TYPE(texture2d)
MSL_UNSUPPORTED_TYPE(texture2d_array)
MSL_UNSUPPORTED_TYPE(texture2d_ms)
MSL_UNSUPPORTED_TYPE(texture3d)
MSL_UNSUPPORTED_TYPE(texturecube)
MSL_UNSUPPORTED_TYPE(texturecube_array)
MSL_UNSUPPORTED_TYPE(texture_buffer)
MSL_UNSUPPORTED_TYPE(depth2d)
MSL_UNSUPPORTED_TYPE(depth2d_array)
MSL_UNSUPPORTED_TYPE(depthcube)
MSL_UNSUPPORTED_TYPE(visible_function_table)
MSL_UNSUPPORTED_TYPE(intersection_function_table)
MSL_UNSUPPORTED_TYPE(imageblock)
#undef MSL_UNSUPPORTED_TYPE

struct __attribute__((unavailable("metal::sampler is not supported by the emulator"))) sampler {};

namespace _impl {
using double_is_not_in_metal
    __attribute__((unavailable("Metal has no type 'double'; write float"))) = double;
}  // namespace _impl

}  // namespace metal
