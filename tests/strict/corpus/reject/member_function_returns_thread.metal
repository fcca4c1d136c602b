// expect compile: binding reference|cannot bind|changes address space
// expect member-function: at names no address space for its object
// Metal 4.1: the object is in the generic address space.
struct Values {
  float v[4];
  thread float& at(int i) { return v[i]; }
};
kernel void f(device float* out [[buffer(0)]]) {
  Values values;
  values.at(0) = 1.0f;
  out[0] = values.v[0];
}
