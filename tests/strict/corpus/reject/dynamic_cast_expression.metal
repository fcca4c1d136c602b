// expect compile: .*
// expect word: Metal has no dynamic_cast
struct Shape {
  float side;
};
kernel void f(device Shape* out [[buffer(0)]]) {
  dynamic_cast<device Shape*>(out)->side = 1.0f;
}
