#include "context.h"

#include <cstring>

#if defined(__APPLE__)
#define SWITCH_SYMBOL "_msl_rt_switch"
#define SWITCH_HEADER ".private_extern " SWITCH_SYMBOL "\n.globl " SWITCH_SYMBOL "\n"
#else
#define SWITCH_SYMBOL "msl_rt_switch"
#define SWITCH_HEADER \
  ".hidden " SWITCH_SYMBOL "\n.globl " SWITCH_SYMBOL "\n.type " SWITCH_SYMBOL ", %function\n"
#endif

#if defined(__x86_64__)

// `ret` rather than an indirect jump: all fibers come back to the same few places, which the return
// predictor knows.
asm(".text\n.p2align 4\n" SWITCH_HEADER SWITCH_SYMBOL
    ":\n"
    "pushq %rbp\n"
    "pushq %rbx\n"
    "pushq %r12\n"
    "pushq %r13\n"
    "pushq %r14\n"
    "pushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15\n"
    "popq %r14\n"
    "popq %r13\n"
    "popq %r12\n"
    "popq %rbx\n"
    "popq %rbp\n"
    "ret\n");

namespace msl_rt {

void* prepare_stack(void* top, void (*entry)()) {
  // Six registers, the return address and a zero in the place of the caller's return address, which
  // leaves the stack as misaligned by 8 as a call would.
  constexpr size_t words = 8;
  uintptr_t address = reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15);
  uintptr_t* frame = reinterpret_cast<uintptr_t*>(address) - words;
  std::memset(frame, 0, words * sizeof(uintptr_t));
  frame[6] = reinterpret_cast<uintptr_t>(entry);
  return frame;
}

}  // namespace msl_rt

#elif defined(__aarch64__)

asm(".text\n.p2align 4\n" SWITCH_HEADER SWITCH_SYMBOL
    ":\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\n"
    "stp x21, x22, [sp, #16]\n"
    "stp x23, x24, [sp, #32]\n"
    "stp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\n"
    "stp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\n"
    "stp d10, d11, [sp, #112]\n"
    "stp d12, d13, [sp, #128]\n"
    "stp d14, d15, [sp, #144]\n"
    "mov x9, sp\n"
    "str x9, [x0]\n"
    "mov sp, x1\n"
    "ldp x19, x20, [sp, #0]\n"
    "ldp x21, x22, [sp, #16]\n"
    "ldp x23, x24, [sp, #32]\n"
    "ldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\n"
    "ldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\n"
    "ldp d10, d11, [sp, #112]\n"
    "ldp d12, d13, [sp, #128]\n"
    "ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\n"
    "ret\n");

namespace msl_rt {

void* prepare_stack(void* top, void (*entry)()) {
  constexpr size_t words = 20;
  constexpr size_t link_register = 11;
  uintptr_t address = reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15);
  uintptr_t* frame = reinterpret_cast<uintptr_t*>(address) - words;
  std::memset(frame, 0, words * sizeof(uintptr_t));
  frame[link_register] = reinterpret_cast<uintptr_t>(entry);
  return frame;
}

}  // namespace msl_rt

#else
#error "the emulator has context switches for x86-64 and AArch64 only"
#endif
