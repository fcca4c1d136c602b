// expect include: "tile.h"
// expect compile: 'tile.h' file not found
#include "tile.h"
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
