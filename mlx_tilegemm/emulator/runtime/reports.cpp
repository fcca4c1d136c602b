// What a worker says about broken rules.
#include <cstdio>

#include "worker.h"

namespace msl_rt {

static void set_extent(uint32_t* out, const Extent& extent) {
  out[0] = extent.x;
  out[1] = extent.y;
  out[2] = extent.z;
}

Finding* Worker::report(
    Kind kind, uint64_t pc, Place place, const Region* region, uint64_t other_pc) {
  Owner owner = Owner::none;
  uint32_t owner_index = 0;
  if (region != nullptr) {
    owner = region->space == Space::device ? Owner::buffer : Owner::storage;
    owner_index = region->index;
  }
  Finding* finding = findings.add(
      {kind, owner, owner_index, place.line, pc, other_pc, place.file});
  if (finding == nullptr) return nullptr;
  if (owner == Owner::storage) {
    finding->owner_name = storages[owner_index].name;
    finding->element_size = storages[owner_index].element_size;
  }
  set_extent(finding->threadgroup, position_);
  if (current != nullptr) {
    set_thread(finding->thread, current->thread);
  }
  return finding;
}

void Worker::set_thread(uint32_t* out, uint32_t thread) const {
  set_extent(out, ids_[thread].position_in_threadgroup);
}

void Worker::report_divergence(Place place, const Fiber* fiber, const char* why) {
  Finding* finding = report(Kind::divergence, 0, place);
  if (finding == nullptr) return;
  set_thread(finding->thread, fiber->thread);
  finding->access = static_cast<uint32_t>(place.kind);
  std::snprintf(finding->text, sizeof(finding->text), "%s", why);
}

void Worker::report_waiting() {
  for (uint32_t i = 0; i < simdgroups_; ++i) {
    const Simdgroup& group = groups_[i];
    uint32_t rest = group.at_barrier | group.at_collective | group.at_product;
    for (; rest; rest &= rest - 1) {
      const Fiber& fiber = group.fibers[__builtin_ctz(rest)];
      Finding* finding = report(Kind::time_limit, 0, fiber.place);
      if (finding == nullptr) continue;
      set_thread(finding->thread, fiber.thread);
      finding->access = static_cast<uint32_t>(fiber.place.kind);
      std::snprintf(finding->text, sizeof(finding->text), "waits for other threads");
    }
  }
}

}  // namespace msl_rt
