// The entry points that emulated kernels call.
#include <cstdio>

#include "worker.h"

using msl_rt::Collective;
using msl_rt::current_worker;
using msl_rt::Fiber;
using msl_rt::Mailbox;
using msl_rt::Pair;
using msl_rt::Place;
using msl_rt::Simdgroup;
using msl_rt::Worker;

namespace {

// Makes the result of a call as a whole never set, if some of its one operand is not.
void spread_operand() {
  const Worker* worker = current_worker();
  if (worker == nullptr || !worker->on_fiber()) return;
  msl_rt::CallShadows* call = worker->call_shadows();
  if (call->parameters[0] == 0) return;
  call->result[0] = ~uint64_t(0);
  call->result_origin = call->parameter_origins[0];
}

}  // namespace

extern "C" {

Mailbox* msl_rt_mailbox(uint32_t* lane) {
  const Fiber* fiber = current_worker()->current;
  *lane = fiber->lane;
  return &fiber->group->box;
}

bool msl_rt_rendezvous(const char* file, int32_t line) {
  Worker* worker = current_worker();
  ++worker->counters.simd_functions;
  return worker->rendezvous(Place{file, line, Collective::simd_function});
}

void msl_rt_release() {
  current_worker()->release();
}

uint32_t msl_rt_multiply_accumulate(
    void* target, msl_rt::ElementType type, Pair a, Pair b, const char* file, int32_t line) {
  Worker* worker = current_worker();
  const Place place = {file, line, Collective::simdgroup_matrix};
  if (worker->tracked) worker->check_operands(target, type, place);
  return worker->add_product(target, type, a, b, place);
}

void msl_rt_settle(uint32_t ticket) {
  current_worker()->settle_products(ticket);
}

void msl_rt_simdgroup_barrier(uint32_t flags, const char* file, int32_t line) {
  current_worker()->simdgroup_barrier(flags, Place{file, line, Collective::simdgroup_barrier});
}

void msl_rt_threadgroup_barrier(uint32_t flags, const char* file, int32_t line) {
  current_worker()->threadgroup_barrier(
      flags, Place{file, line, Collective::threadgroup_barrier});
}

uint32_t msl_rt_lane() {
  return current_worker()->current->lane;
}

void msl_rt_uniform(uint64_t operands, bool stores, const char* file, int32_t line) {
  Worker* worker = current_worker();
  if (worker->current->lane == 0) {
    msl_rt::Counters& counters = worker->counters;
    ++(stores ? counters.simdgroup_stores : counters.simdgroup_loads);
  }
  if (worker->strict) {
    worker->note_uniform(operands, Place{file, line, Collective::simdgroup_matrix});
  }
}

void* msl_rt_threadgroup_storage(
    uint32_t declaration, const msl_rt::StorageType* type, const char* name, const char* file,
    int32_t line) {
  return current_worker()->threadgroup_storage(
      declaration, *type, name, Place{file, line, Collective::threadgroup_barrier});
}

void msl_rt_take_shadow(msl_rt::SlotShadow* slot, const void* value, size_t bytes) {
  msl_rt::take_shadow(*current_worker(), slot, value, bytes);
}

void msl_rt_give_shadow(void* value, const msl_rt::SlotShadow* slot, size_t bytes) {
  msl_rt::give_shadow(*current_worker(), value, *slot, bytes);
}

uint32_t msl_rt_spread(uint32_t bits) {
  spread_operand();
  return bits;
}

uint16_t msl_rt_round_to_bfloat(uint32_t bits) {
  spread_operand();
  return msl_rt::round_to_bfloat(bits);
}

void msl_rt_derive(
    void* result, size_t result_bytes, const void* operand, size_t operand_bytes) {
  const Worker& worker = *current_worker();
  const uint32_t origin = msl_rt::find_unset(worker, operand, operand_bytes);
  if (origin != 0) msl_rt::mark_unset(worker, result, result_bytes, origin);
}

void msl_rt_check_set(
    const void* value, size_t bytes, const char* what, const char* file, int32_t line) {
  Worker* worker = current_worker();
  const uint32_t origin = msl_rt::find_unset(*worker, value, bytes);
  if (origin == 0) return;
  const uint64_t pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
  msl_rt::report_unset(worker, file ? 0 : pc, Place{file, line}, origin, what);
  msl_rt::mark_set(*worker, value, bytes);
}

void msl_rt_uninitialized(const char* what, const char* file, int32_t line) {
  Worker* worker = current_worker();
  if (!worker->strict) return;
  msl_rt::Finding* finding = worker->report(
      msl_rt::Kind::uninitialized, 0, Place{file, line, Collective::simdgroup_matrix});
  if (finding != nullptr) std::snprintf(finding->text, sizeof(finding->text), "%s", what);
}

}  // extern "C"
