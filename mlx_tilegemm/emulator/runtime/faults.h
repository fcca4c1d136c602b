// Keeps a crash in emulated code inside the launch: the faulting fiber is left for good, the launch
// ends with a finding and the process goes on.
#pragma once

#include <csignal>

namespace msl_rt {

// Stops a running thread. Ignored by default, so that a late one does no harm.
constexpr int cancel_signal = SIGURG;

// Faults outside emulated code go to the handlers that were there before.
void install_fault_handlers();

// Gives the calling OS thread a stack for its handlers.
void prepare_thread_for_faults();

}  // namespace msl_rt
