// expect derived-class: Square is derived
// MSL, Restrictions: derived classes.
struct Shape {
  float side;
};
struct Square : Shape {};
kernel void f(device float* out [[buffer(0)]]) {
  Square s;
  s.side = 1.0f;
  out[0] = s.side;
}
