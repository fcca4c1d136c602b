kernel void f(device int* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  int x = 0;
  MLX_MTL_PRAGMA_UNROLL
  for (int k = 0; k < 4; ++k) {
    if (k == 2) {
      continue;
    }
    x += k;
  }
  do {
    x -= 1;
  } while (x > 2);
  switch (i % 3) {
    case 0:
      x += 1;
      break;
    case 1:
    default:
      x = -x;
  }
  out[i] = x;
}
