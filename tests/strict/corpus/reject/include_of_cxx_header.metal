// expect include: <vector>
// expect compile: 'vector' file not found
#include <vector>
kernel void f(device float* out [[buffer(0)]]) {
  out[0] = 1.0f;
}
