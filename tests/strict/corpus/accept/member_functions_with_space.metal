struct Values {
  float v[4];
  thread float& at(int i) thread { return v[i]; }
  float get(int i) const thread { return v[i]; }
  float get_device(int i) const device { return v[i]; }
};
kernel void f(device Values* out [[buffer(0)]], const device Values* a [[buffer(1)]]) {
  Values values;
  values.at(0) = a[0].get_device(1);
  out[0].v[0] = values.get(0);
}
