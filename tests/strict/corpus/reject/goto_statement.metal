// expect goto: Metal has no goto
// expect goto: Metal has no labels
// expect word: Metal has no goto
// MSL, Restrictions.
kernel void f(device int* out [[buffer(0)]]) {
  goto end;
end:
  out[0] = 1;
}
