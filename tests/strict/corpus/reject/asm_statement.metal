// expect asm: Metal has no asm
// expect word: Metal has no asm
kernel void f(device int* out [[buffer(0)]]) {
  asm("nop");
}
