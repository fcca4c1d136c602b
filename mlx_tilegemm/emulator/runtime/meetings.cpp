// Where threads meet: the collectives of simdgroups, barriers, and what happens when some threads
// never come.
#include <algorithm>
#include <cstring>

#include "worker.h"

namespace msl_rt {

bool Place::same_file(const char* other) const {
  return file == other || (file && other && std::strcmp(file, other) == 0);
}

bool Worker::rendezvous(Place place) {
  Fiber* self = current;
  Simdgroup* group = self->group;
  if (group->at_collective == 0) {
    group->place = place;
    group->mixed = false;
  } else if (group->place != place) {
    group->mixed = true;
  }
  self->place = place;
  group->at_collective |= uint32_t(1) << self->slot;
  if (group->at_collective == group->alive && !group->mixed) {
    join(group, group->alive);
    return true;
  }
  self->leads = false;
  wait();
  return self->leads;
}

void Worker::release() {
  Simdgroup* group = current->group;
  group->at_collective &= ~group->joined;
  group->runnable |= group->joined;
  group->joined = 0;
}

static uint32_t lanes_of(const Simdgroup* group, uint32_t slots) {
  if (slots == group->alive) return group->alive_lanes;
  uint32_t lanes = 0;
  for (; slots; slots &= slots - 1) {
    lanes |= uint32_t(1) << group->fibers[__builtin_ctz(slots)].lane;
  }
  return lanes;
}

static void collect_operands(Mailbox* box, uint32_t lanes, bool tracked) {
  box->lanes = lanes;
  for (; lanes; lanes &= lanes - 1) {
    const uint32_t lane = __builtin_ctz(lanes);
    std::memcpy(box->slots[lane], box->operands[lane], slot_bytes);
    if (tracked) box->shadows[lane] = box->operand_shadows[lane];
  }
}

void Worker::join(Simdgroup* group, uint32_t slots) {
  group->joined = slots;
  if (accesses && slots == group->alive) accesses->settle(group->index);
  const Fiber* first = &group->fibers[__builtin_ctz(slots)];
  if (first->place.kind == Collective::simd_function) {
    collect_operands(&group->box, lanes_of(group, slots), tracked);
  } else if (strict && slots != ~uint32_t(0)) {
    report_split(group, slots);
  }
  if (!strict) return;
  if (group->check_uniform) compare_uniform(group);
}

void Worker::report_split(Simdgroup* group, uint32_t slots) {
  const uint32_t lanes = std::min(simd_width, threads_ - group->index * simd_width);
  const Fiber* fiber = &group->fibers[__builtin_ctz(slots)];
  if (slots == all_lanes(lanes)) {
    // A simdgroup of fewer than 32 threads may meet at a barrier but holds no whole matrix.
    if (fiber->place.kind != Collective::simdgroup_matrix) return;
    report_divergence(fiber->place, fiber, "the simdgroup has fewer than 32 threads");
  } else if (slots != group->alive) {
    report_divergence(fiber->place, fiber, "other lanes of the simdgroup are elsewhere");
  } else {
    report_divergence(fiber->place, fiber, "other lanes of the simdgroup have returned");
  }
}

// No lane of the simdgroup can run on: lets those at the earliest collective meet without the rest,
// which is what a GPU does with a branch around a simd function.
Fiber* Worker::settle_simdgroup(Simdgroup* group) {
  const Fiber* first = nullptr;
  for (uint32_t rest = group->at_collective; rest; rest &= rest - 1) {
    const Fiber* fiber = &group->fibers[__builtin_ctz(rest)];
    if (first == nullptr || fiber->place.line < first->place.line) first = fiber;
  }
  uint32_t slots = 0;
  const Fiber* left = nullptr;
  group->mixed = false;
  for (uint32_t rest = group->at_collective; rest; rest &= rest - 1) {
    const Fiber* fiber = &group->fibers[__builtin_ctz(rest)];
    if (fiber->place == first->place) {
      slots |= uint32_t(1) << fiber->slot;
      continue;
    }
    if (left != nullptr && left->place != fiber->place) group->mixed = true;
    left = fiber;
  }
  join(group, slots);
  if (left != nullptr) group->place = left->place;
  Fiber* leader = &group->fibers[__builtin_ctz(slots)];
  leader->leads = true;
  group->runnable |= uint32_t(1) << leader->slot;
  return leader;
}

void Worker::threadgroup_barrier(uint32_t flags, Place place) {
  Fiber* self = current;
  if (waiting_ == 0) {
    barrier_place_ = place;
    barrier_mixed_ = false;
    barrier_flags_ = flags;
  } else if (barrier_place_ != place) {
    barrier_mixed_ = true;
  }
  barrier_flags_ &= flags;
  self->place = place;
  ++waiting_;
  self->group->at_barrier |= uint32_t(1) << self->slot;
  if (waiting_ == alive_ && !barrier_mixed_) {
    finish_barrier(place);
    return;
  }
  wait();
}

// Lets every waiting fiber go on.
void Worker::finish_barrier(Place place) {
  if (strict && alive_ != threads_) {
    report_divergence(place, current, "other threads of the threadgroup have returned");
  }
  if (accesses) accesses->settle_all();
  order_memory(barrier_flags_, nullptr, place);
  ++counters.threadgroup_barriers;
  for (uint32_t i = 0; i < simdgroups_; ++i) {
    groups_[i].runnable |= groups_[i].at_barrier;
    groups_[i].at_barrier = 0;
  }
  waiting_ = 0;
}

// Every fiber waits at a threadgroup barrier, but not all at the same one, or some have returned.
Fiber* Worker::settle_barrier() {
  const Fiber* first = nullptr;
  for (uint32_t i = 0; i < simdgroups_; ++i) {
    for (uint32_t rest = groups_[i].at_barrier; rest; rest &= rest - 1) {
      const Fiber* fiber = &groups_[i].fibers[__builtin_ctz(rest)];
      if (first == nullptr || fiber->place.line < first->place.line) first = fiber;
    }
  }
  if (strict && barrier_mixed_) {
    report_divergence(first->place, first, "other threads of the threadgroup are at another one");
  }
  finish_barrier(first->place);
  return next_fiber();
}

void Worker::simdgroup_barrier(uint32_t flags, Place place) {
  if (!rendezvous(place)) return;
  order_memory(flags, current->group, place);
  ++counters.simdgroup_barriers;
  release();
}

void Worker::order_memory(uint32_t flags, Simdgroup* only, Place place) {
  ++clock;
  for (uint32_t space = 0; space < 2; ++space) {
    const bool covers = flags & memory_flag(space);
    if (only != nullptr) only->partial[space] = {clock, place, flags};
    if (only == nullptr && !covers) partial[space] = {clock, place, flags};
    if (!covers) continue;
    if (only != nullptr) {
      only->ordered[space] = clock;
      continue;
    }
    ordered[space] = clock;
    for (uint32_t i = 0; i < simdgroups_; ++i) groups_[i].ordered[space] = clock;
  }
}

PartialBarrier Worker::partial_of(uint32_t thread, uint32_t space) const {
  for (uint32_t i = 0; i < simdgroups_; ++i) {
    if (groups_[i].index == thread / simd_width) return groups_[i].partial[space];
  }
  return {};
}

void Worker::note_uniform(uint64_t operands, Place place) {
  current->uniform = mix(current->uniform + operands);
  current->uniform_place = place;
  current->group->check_uniform = true;
}

void Worker::compare_uniform(Simdgroup* group) {
  group->check_uniform = false;
  const Fiber* first = &group->fibers[__builtin_ctz(group->joined)];
  for (uint32_t rest = group->joined; rest; rest &= rest - 1) {
    Fiber* fiber = &group->fibers[__builtin_ctz(rest)];
    if (fiber->uniform == first->uniform) continue;
    report_divergence(
        fiber->uniform_place, fiber,
        "lanes gave simdgroup_load or simdgroup_store different operands");
    break;
  }
  for (uint32_t rest = group->alive; rest; rest &= rest - 1) {
    group->fibers[__builtin_ctz(rest)].uniform = 0;
  }
}

// Of what lanes did after their last collective.
void Worker::compare_last_uniform(Simdgroup* group) {
  if (group->alive == all_lanes(std::min(simd_width, threads_ - group->index * simd_width))) {
    group->last_uniform = current->uniform;
  }
  if (group->last_uniform == current->uniform) return;
  report_divergence(
      current->uniform_place, current,
      "lanes gave simdgroup_load or simdgroup_store different operands");
}

}  // namespace msl_rt
