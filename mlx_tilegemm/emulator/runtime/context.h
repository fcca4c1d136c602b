// Switching between stacks: one stack per emulated GPU thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace msl_rt {

// Saves the callee-saved registers on the current stack, stores the stack pointer in *from and
// continues on the stack that `to` was stored for.
extern "C" __attribute__((visibility("hidden"))) void msl_rt_switch(void** from, void* to);

// A stack pointer that makes the next msl_rt_switch call `entry` on a fresh stack.
void* prepare_stack(void* top, void (*entry)());

}  // namespace msl_rt
