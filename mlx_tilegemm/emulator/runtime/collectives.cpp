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

// Element (row, column) and (row, column + 1) of a lane, as an index into a row-major 8x8 matrix.
constexpr uint32_t first_element(uint32_t lane) {
  const uint32_t quad = lane / 4;
  const uint32_t row = (quad & 4) + (lane / 2) % 4;
  const uint32_t column = (quad & 2) * 2 + (lane % 2) * 2;
  return row * 8 + column;
}

// Out of line, so that the frames of waiting lanes stay small.
__attribute__((noinline)) void multiply_accumulate(Simdgroup* group) {
  using Row = float __attribute__((vector_size(32)));
  const Row* b = reinterpret_cast<const Row*>(group->b);
  for (int i = 0; i < 8; ++i) {
    Row sum = reinterpret_cast<const Row*>(group->c)[i];
    for (int k = 0; k < 8; ++k) sum += group->a[i * 8 + k] * b[k];
    reinterpret_cast<Row*>(group->d)[i] = sum;
  }
}

void store_pair(float* matrix, uint32_t element, Pair value) {
  __builtin_memcpy(matrix + element, &value, sizeof(value));
}

}  // namespace

extern "C" {

Mailbox* msl_rt_mailbox(uint32_t* lane) {
  const Fiber* fiber = current_worker()->current;
  *lane = fiber->lane;
  return &fiber->group->boxes[fiber->group->parity];
}

bool msl_rt_rendezvous(const char* file, int32_t line) {
  Worker* worker = current_worker();
  ++worker->counters.simd_functions;
  return worker->rendezvous(Place{file, line, Collective::simd_function});
}

void msl_rt_release() {
  current_worker()->release();
}

Pair msl_rt_multiply_accumulate(Pair a, Pair b, Pair c, const char* file, int32_t line) {
  Worker* worker = current_worker();
  const Fiber* fiber = worker->current;
  Simdgroup* group = fiber->group;
  const uint32_t element = first_element(fiber->lane);
  store_pair(group->a, element, a);
  store_pair(group->b, element, b);
  store_pair(group->c, element, c);
  if (worker->rendezvous(Place{file, line, Collective::simdgroup_matrix})) {
    ++worker->counters.multiply_accumulates;
    multiply_accumulate(group);
    worker->release();
  }
  Pair d;
  __builtin_memcpy(&d, group->d + element, sizeof(d));
  return d;
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

void msl_rt_uniform(uint64_t operands, const char* file, int32_t line) {
  Worker* worker = current_worker();
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

void msl_rt_uninitialized(const char* what, const char* file, int32_t line) {
  Worker* worker = current_worker();
  if (!worker->strict) return;
  msl_rt::Finding* finding = worker->report(
      msl_rt::Kind::uninitialized, 0, Place{file, line, Collective::simdgroup_matrix});
  if (finding != nullptr) std::snprintf(finding->text, sizeof(finding->text), "%s", what);
}

}  // extern "C"
