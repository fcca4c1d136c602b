#include "faults.h"

#if defined(__APPLE__)
#include <sys/ucontext.h>
#else
#include <ucontext.h>
#endif

#include <cstdio>
#include <cstring>

#include "launch.h"
#include "worker.h"

namespace msl_rt {

namespace {

constexpr int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
struct sigaction previous[NSIG];

struct Registers {
  uint64_t pc;
  uint64_t sp;
};

Registers get_registers(void* context) {
  auto* machine = &static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__APPLE__) && defined(__aarch64__)
  return {(*machine)->__ss.__pc, (*machine)->__ss.__sp};
#elif defined(__APPLE__)
  return {(*machine)->__ss.__rip, (*machine)->__ss.__rsp};
#elif defined(__aarch64__)
  return {machine->pc, machine->sp};
#else
  return {
      static_cast<uint64_t>(machine->gregs[REG_RIP]),
      static_cast<uint64_t>(machine->gregs[REG_RSP])};
#endif
}

void set_registers(void* context, Registers registers) {
  auto* machine = &static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__APPLE__) && defined(__aarch64__)
  (*machine)->__ss.__pc = registers.pc;
  (*machine)->__ss.__sp = registers.sp;
#elif defined(__APPLE__)
  (*machine)->__ss.__rip = registers.pc;
  (*machine)->__ss.__rsp = registers.sp;
#elif defined(__aarch64__)
  machine->pc = registers.pc;
  machine->sp = registers.sp;
#else
  machine->gregs[REG_RIP] = static_cast<greg_t>(registers.pc);
  machine->gregs[REG_RSP] = static_cast<greg_t>(registers.sp);
#endif
}

void leave_fiber() {
  current_worker()->abandon();
}

// Makes the interrupted thread continue in leave_fiber, on a stack that is known to be good.
void redirect(void* context, Worker* worker) {
  const uint64_t top = reinterpret_cast<uint64_t>(worker->escape_stack) & ~uint64_t(15);
#if defined(__x86_64__)
  set_registers(context, {reinterpret_cast<uint64_t>(&leave_fiber), top - 8});
#else
  set_registers(context, {reinterpret_cast<uint64_t>(&leave_fiber), top});
#endif
}

const char* name_of(int signal) {
  switch (signal) {
    case SIGSEGV:
    case SIGBUS:
      return "access to memory that belongs to no buffer";
    case SIGFPE:
      return "integer division by zero or overflow in it";
    case SIGABRT:
      return "abort";
    default:
      return "illegal instruction or trap";
  }
}

void report_fault(Worker* worker, int signal, uint64_t pc, const Region* region, uint64_t address) {
  const Kind kind = region != nullptr ? Kind::out_of_bounds : Kind::crash;
  Finding* finding = worker->report(kind, pc, Place(), region);
  if (finding == nullptr) return;
  finding->offset =
      region != nullptr ? static_cast<int64_t>(address - region->start) : int64_t(address);
  std::snprintf(finding->text, sizeof(finding->text), "%s", name_of(signal));
}

// True when the thread may go on.
bool handle_stray(Worker* worker, int signal, uint64_t pc, uint64_t address) {
  if (signal != SIGSEGV && signal != SIGBUS) return false;
  AddressSpace* space = AddressSpace::instance();
  Region* region = space->find(address);
  if (region == nullptr) return false;
  // The checks have reported the access already.
  if (!worker->strict) report_fault(worker, signal, pc, region, address);
  return space->commit_stray(address);
}

void pass_on(int signal, siginfo_t* info, void* context) {
  const struct sigaction& action = previous[signal];
  if (action.sa_flags & SA_SIGINFO) {
    action.sa_sigaction(signal, info, context);
  } else if (action.sa_handler == SIG_DFL) {
    // Returning runs the faulting instruction again, now under the default action.
    sigaction(signal, &action, nullptr);
  } else if (action.sa_handler != SIG_IGN) {
    action.sa_handler(signal);
  }
}

void on_fault(int signal, siginfo_t* info, void* context) {
  Worker* worker = current_worker();
  if (worker == nullptr || !worker->on_fiber()) {
    pass_on(signal, info, context);
    return;
  }
  const uint64_t pc = get_registers(context).pc;
  const uint64_t address = reinterpret_cast<uint64_t>(info->si_addr);
  if (handle_stray(worker, signal, pc, address)) return;
  // Some vector instructions trap at misaligned addresses, of which the checks have told already.
  const bool misaligned = address == 0 && worker->findings.has(Kind::misaligned);
  if (!misaligned) report_fault(worker, signal, pc, nullptr, address);
  redirect(context, worker);
}

void on_cancel(int signal, siginfo_t* info, void* context) {
  Worker* worker = current_worker();
  if (worker == nullptr) {
    pass_on(signal, info, context);
    return;
  }
  if (!worker->on_fiber()) return;
  const uint64_t pc = get_registers(context).pc;
  Finding* finding =
      worker->report(Kind::time_limit, pc, Place(), nullptr, worker->last_pc);
  if (finding != nullptr) std::snprintf(finding->text, sizeof(finding->text), "still runs");
  worker->report_waiting();
  redirect(context, worker);
}

void install(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction now;
  sigaction(signal, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handler) return;
  previous[signal] = now;
  struct sigaction action;
  std::memset(&action, 0, sizeof(action));
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

}  // namespace

void install_fault_handlers() {
  for (int signal : fault_signals) install(signal, on_fault);
  install(cancel_signal, on_cancel);
}

void prepare_thread_for_faults() {
  constexpr size_t bytes = size_t(64) << 10;
  stack_t stack;
  std::memset(&stack, 0, sizeof(stack));
  stack.ss_sp = map_memory(bytes);
  stack.ss_size = bytes;
  if (stack.ss_sp != nullptr) sigaltstack(&stack, nullptr);
}

}  // namespace msl_rt
