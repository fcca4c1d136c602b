typedef half element;
using accumulator = float;
template <typename T>
using pair = vec<T, 2>;
kernel void f(device accumulator* out [[buffer(0)]], const device element* a [[buffer(1)]]) {
  pair<float> p = pair<float>(float(a[0]), float(a[1]));
  out[0] = p.x * p.y;
}
