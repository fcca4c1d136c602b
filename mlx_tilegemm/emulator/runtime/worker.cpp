#include "worker.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "context.h"
#include "launch.h"

namespace msl_rt {

namespace {

constexpr size_t stack_bytes = size_t(64) << 10;
// The odd distance spreads the tops of the stacks over the cache sets.
constexpr size_t stack_stride = stack_bytes + 576;
constexpr size_t escape_bytes = size_t(64) << 10;
constexpr uint64_t stack_guard = 0x5afe57acc0de5afeull;
constexpr size_t absent_bytes = size_t(64) << 10;

// Fills `order` with 0..count-1 as the launch wants them run.
void running_order(uint32_t* order, uint32_t count, Order kind, uint64_t seed) {
  for (uint32_t i = 0; i < count; ++i) order[i] = kind == Order::reverse ? count - 1 - i : i;
  if (kind != Order::random) return;
  for (uint32_t i = count; i > 1; --i) {
    seed = mix(seed + 0x9e3779b97f4a7c15ull);
    std::swap(order[i - 1], order[seed % i]);
  }
}

template <typename T>
T* allocate_array(size_t count) {
  return static_cast<T*>(map_memory(count * sizeof(T)));
}

// Memory below which a page traps: stacks grow downwards.
char* allocate_stacks(size_t bytes) {
  char* memory = static_cast<char*>(map_memory(bytes + page_bytes()));
  if (memory == nullptr || mprotect(memory, page_bytes(), PROT_NONE) != 0) return nullptr;
  return memory + page_bytes();
}

}  // namespace

__thread Worker* this_worker = nullptr;

bool Worker::allocate() {
  if (stacks.bytes != 0) return true;
  fibers_ = allocate_array<Fiber>(max_threads);
  groups_ = allocate_array<Simdgroup>(max_threads / simd_width);
  ids_ = allocate_array<ThreadIds>(max_threads);
  arguments_ = allocate_array<void*>(max_buffers);
  char* escape = allocate_stacks(escape_bytes);
  constexpr size_t bytes = max_threads * stack_stride;
  char* memory = allocate_stacks(3 * bytes);
  call_shadows_ = allocate_array<CallShadows>(max_threads);
  absent_ = map_memory(absent_bytes);
  if (!fibers_ || !groups_ || !ids_ || !arguments_ || !call_shadows_ || !absent_) return false;
  if (!escape || !memory) return false;
  escape_stack = escape + escape_bytes;
  stacks = {reinterpret_cast<uintptr_t>(memory), bytes};
#if defined(MADV_HUGEPAGE)
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return true;
}

char* Worker::stack_top(uint32_t thread) const {
  return reinterpret_cast<char*>(stacks.begin) + thread * stack_stride + stack_stride;
}

void Worker::begin(Launch* next) {
  launch = next;
  strict = next->strict;
  tracked = next->arguments.tracked != 0;
  pending = {};
  findings.clear();
  counters = {};
  std::memset(storages, 0, sizeof(storages));
  shape_ = {};
  accesses = next->arguments.accesses ? &access_log_ : nullptr;
  if (accesses) accesses->begin();
  clock = next->start_clock;
  tag = next->tag;
  const LaunchArguments& arguments = next->arguments;
  AddressSpace* space = AddressSpace::instance();
  uint32_t dynamic = 0;
  for (uint32_t i = 0; i < arguments.parameter_count; ++i) {
    const uint32_t parameter = arguments.parameters[i];
    if (parameter == no_memory) {
      arguments_[i] = absent_;
    } else if (parameter & dynamic_parameter) {
      const uint32_t declaration = max_storages - 1 - dynamic++;
      const size_t bytes = arguments.dynamic_bytes[parameter & ~dynamic_parameter];
      const uint32_t element = arguments.element_sizes[i];
      const StorageType type = {bytes, 16, element, arguments.scalar_sizes[i]};
      arguments_[i] =
          threadgroup_storage(declaration, type, arguments.parameter_names[i], Place());
    } else {
      const uintptr_t start = space->buffer(parameter)->start;
      arguments_[i] = reinterpret_cast<void*>(start + arguments.buffers[parameter].start);
    }
  }
}

void Worker::run() {
  for (;;) {
    if (launch->stop.load(std::memory_order_relaxed)) return;
    const uint64_t linear = launch->take();
    if (linear == Launch::none) return;
    run_threadgroup(linear);
  }
}

void Worker::run_threadgroup(uint64_t linear) {
  const Extent& count = launch->threadgroups;
  position_.x = static_cast<uint32_t>(linear % count.x);
  position_.y = static_cast<uint32_t>(linear / count.x % count.y);
  position_.z = static_cast<uint32_t>(linear / count.x / count.y);
  threadgroup_start = ++clock;
  ordered[0] = ordered[1] = clock;
  const Counters before = counters;
  ++counters.threadgroups;
  set_ids();
  prepare_storages();
  if (accesses) accesses->start_threadgroup(threads_);
  start_fibers(linear);
  cursor_ = 0;
  current = &groups_[0].fibers[0];
  msl_rt_switch(&scheduler_, current->stack_pointer);
  if (accesses) {
    accesses->settle_all();
    compare_work(before);
  }
  if (strict) check_stacks();
}

void Worker::compare_work(const Counters& before) {
  Counters work = counters;
  work.threadgroup_bytes = before.threadgroup_bytes;  // grows with a worker's first threadgroup
  uint64_t digest = accesses->digest();
  for (size_t i = 0; i < counter_words; ++i) {
    digest = mix(digest + words_of(work)[i] - words_of(before)[i] + i);
  }
  uint64_t first = 0;
  digest |= 1;
  if (launch->work.compare_exchange_strong(first, digest) || first == digest) return;
  ++counters.uneven;
}

// The last threadgroup along an axis is as small as the grid leaves it.
static uint32_t clipped(uint32_t position, uint32_t size, uint32_t grid) {
  return std::min(size, grid - position * size);
}

static uint32_t divide_up(uint32_t a, uint32_t b) {
  return (a + b - 1) / b;
}

static void set_group_sizes(ThreadIds* ids, const Launch& launch, const Extent& shape) {
  const Extent& full = launch.threadgroup;
  const uint32_t threads = shape.x * shape.y * shape.z;
  const uint32_t full_threads = full.x * full.y * full.z;
  ids->threads_per_grid = launch.grid;
  ids->threadgroups_per_grid = launch.threadgroups;
  ids->threads_per_threadgroup = shape;
  ids->dispatch_threads_per_threadgroup = full;
  ids->simdgroups_per_threadgroup = divide_up(threads, simd_width);
  ids->dispatch_simdgroups_per_threadgroup = divide_up(full_threads, simd_width);
  ids->quadgroups_per_threadgroup = divide_up(threads, 4);
  ids->dispatch_quadgroups_per_threadgroup = divide_up(full_threads, 4);
}

static void set_thread_index(ThreadIds* ids, uint32_t thread, const Extent& shape) {
  ids->position_in_threadgroup = {
      thread % shape.x, thread / shape.x % shape.y, thread / shape.x / shape.y};
  ids->index_in_threadgroup = thread;
  ids->index_in_simdgroup = thread % simd_width;
  ids->simdgroup_index = thread / simd_width;
  ids->index_in_quadgroup = thread % 4;
  ids->quadgroup_index = thread / 4;
}

void Worker::set_ids() {
  const Extent& full = launch->threadgroup;
  const Extent& grid = launch->grid;
  const Extent shape = {
      clipped(position_.x, full.x, grid.x),
      clipped(position_.y, full.y, grid.y),
      clipped(position_.z, full.z, grid.z)};
  const bool reshaped = shape.x != shape_.x || shape.y != shape_.y || shape.z != shape_.z;
  shape_ = shape;
  threads_ = shape.x * shape.y * shape.z;
  simdgroups_ = divide_up(threads_, simd_width);
  for (uint32_t thread = 0; thread < threads_; ++thread) {
    ThreadIds* ids = &ids_[thread];
    if (reshaped) {
      set_group_sizes(ids, *launch, shape);
      set_thread_index(ids, thread, shape);
    }
    const Extent& inside = ids->position_in_threadgroup;
    ids->threadgroup_position = position_;
    ids->position_in_grid = {
        position_.x * full.x + inside.x,
        position_.y * full.y + inside.y,
        position_.z * full.z + inside.z};
  }
}

// A load of threadgroup memory that nothing was stored to is reported as such.
static void forget_shadow(const Region* region) {
  std::memset(AddressSpace::shadow(region->start).bits, 0, region->bytes);
}

void Worker::prepare_storages() {
  for (const Storage& storage : storages) {
    if (storage.region == nullptr) continue;
    std::memset(reinterpret_cast<void*>(storage.region->start), 0xff, storage.region->bytes);
    if (tracked) forget_shadow(storage.region);
  }
}

void Worker::start_fibers(uint64_t linear) {
  const uint64_t seed = mix(launch->arguments.seed ^ mix(linear));
  uint32_t group_order[max_threads / simd_width];
  uint32_t lane_order[simd_width];
  running_order(group_order, simdgroups_, launch->order, seed);
  for (uint32_t i = 0; i < simdgroups_; ++i) {
    Simdgroup* group = &groups_[i];
    group->index = group_order[i];
    group->fibers = &fibers_[i * simd_width];
    const uint32_t lanes = std::min(simd_width, threads_ - group->index * simd_width);
    running_order(lane_order, lanes, launch->order, mix(seed + i + 1));
    start_simdgroup(group, lane_order, lanes);
  }
  alive_ = threads_;
  waiting_ = 0;
}

void Worker::start_simdgroup(Simdgroup* group, const uint32_t* lane_order, uint32_t lanes) {
  group->alive = group->runnable = group->alive_lanes = all_lanes(lanes);
  group->at_collective = group->at_barrier = group->at_product = group->joined = 0;
  group->products_done = 0;
  for (Product& product : group->products) product.lanes = 0;
  group->cursor = lanes - 1;
  group->mixed = group->check_uniform = false;
  group->ordered[0] = group->ordered[1] = clock;
  group->partial[0] = group->partial[1] = {};
  for (uint32_t slot = 0; slot < lanes; ++slot) {
    Fiber* fiber = &group->fibers[slot];
    fiber->group = group;
    fiber->lane = static_cast<uint8_t>(lane_order[slot]);
    fiber->slot = static_cast<uint8_t>(slot);
    fiber->thread = static_cast<uint16_t>(group->index * simd_width + fiber->lane);
    fiber->uniform = 0;
    fiber->products = 0;
    fiber->leads = false;
    if (tracked) std::memset(&call_shadows_[fiber->thread], 0, 2 * sizeof(uint64_t));
    char* top = stack_top(fiber->thread);
    std::memcpy(top - stack_stride, &stack_guard, sizeof(stack_guard));
    fiber->stack_pointer = prepare_stack(top, fiber_main);
  }
}

void Worker::check_stacks() {
  for (uint32_t thread = 0; thread < threads_; ++thread) {
    uint64_t guard;
    std::memcpy(&guard, stack_top(thread) - stack_stride, sizeof(guard));
    if (guard == stack_guard) continue;
    if (Finding* finding = report(Kind::crash, 0, Place())) {
      std::snprintf(
          finding->text, sizeof(finding->text), "a thread used more than %zu bytes of stack",
          stack_bytes);
    }
    launch->stop.store(true);
    return;
  }
}

void Worker::fiber_main() {
  Worker* worker = this_worker;
  worker->launch->arguments.entry(worker->arguments_, &worker->ids_[worker->current->thread]);
  worker->finish();
}

void Worker::finish() {
  Fiber* self = current;
  Simdgroup* group = self->group;
  const uint32_t bit = uint32_t(1) << self->slot;
  if (strict && group->check_uniform) compare_last_uniform(group);
  group->alive &= ~bit;
  group->runnable &= ~bit;
  group->alive_lanes &= ~(uint32_t(1) << self->lane);
  --alive_;
  resume(next_fiber());
}

void Worker::resume(Fiber* next) {
  Fiber* self = current;
  if (pending.bytes != 0) settle_store();
  if (next == self) return;
  current = next;
  if (next == nullptr) {
    msl_rt_switch(&self->stack_pointer, scheduler_);
    return;
  }
  next->group->cursor = next->slot;
  msl_rt_switch(&self->stack_pointer, next->stack_pointer);
}

void Worker::wait() {
  Simdgroup* group = current->group;
  group->runnable &= ~(uint32_t(1) << current->slot);
  resume(next_fiber());
}

static Fiber* next_runnable(Simdgroup* group) {
  const uint32_t after = group->runnable & ~((uint32_t(2) << group->cursor) - 1);
  return &group->fibers[__builtin_ctz(after ? after : group->runnable)];
}

Fiber* Worker::next_fiber() {
  Simdgroup* group = current->group;
  if (group->runnable) return next_runnable(group);
  if (group->at_product && settle_group_products(group)) return next_runnable(group);
  if (group->at_collective) return settle_simdgroup(group);
  for (uint32_t step = 1; step <= simdgroups_; ++step) {
    const uint32_t candidate = (cursor_ + step) % simdgroups_;
    if (!groups_[candidate].runnable) continue;
    cursor_ = candidate;
    return next_runnable(&groups_[candidate]);
  }
  return alive_ ? settle_barrier() : nullptr;
}

// A thread that spins on an atomic must let the thread it waits for run.
void Worker::give_way() {
  for (uint32_t step = 1; step <= simdgroups_; ++step) {
    const uint32_t candidate = (cursor_ + step) % simdgroups_;
    if (!groups_[candidate].runnable) continue;
    cursor_ = candidate;
    resume(next_runnable(&groups_[candidate]));
    return;
  }
}

void* Worker::threadgroup_storage(
    uint32_t declaration, const StorageType& type, const char* name, Place place) {
  declaration %= max_storages;
  Storage* storage = &storages[declaration];
  if (storage->region == nullptr) place_storage(declaration, type, name, place);
  return reinterpret_cast<void*>(storage->region->start);
}

void Worker::place_storage(
    uint32_t declaration, const StorageType& type, const char* name, Place place) {
  AddressSpace* space = AddressSpace::instance();
  const bool misalign = launch->arguments.misalign != 0;
  const size_t alignment = misalign ? type.alignment : std::max<size_t>(type.alignment, 16);
  Region* region = space->place_storage(index, declaration, type.bytes, alignment);
  if (region == nullptr || (strict && !space->track(region, type.scalar_size)) ||
      (tracked && !space->commit_shadow(region))) {
    Finding* finding = report(Kind::threadgroup_memory, 0, place);
    if (finding != nullptr) {
      finding->size = type.bytes;
      finding->offset = launch->arguments.threadgroup_bytes;
    }
    abandon();
  }
  storages[declaration] = {region, name, type.element_size};
  std::memset(reinterpret_cast<void*>(region->start), 0xff, type.bytes);
  if (tracked) forget_shadow(region);
  counters.threadgroup_bytes += (type.bytes + 15) / 16 * 16;
  if (counters.threadgroup_bytes <= launch->arguments.threadgroup_bytes) return;
  Finding* finding = report(Kind::threadgroup_memory, 0, place, region);
  if (finding != nullptr) {
    finding->size = counters.threadgroup_bytes;
    finding->offset = launch->arguments.threadgroup_bytes;
  }
}

void Worker::abandon() {
  launch->stop.store(true);
  void* forgotten;
  current = nullptr;
  msl_rt_switch(&forgotten, scheduler_);
  __builtin_unreachable();
}

}  // namespace msl_rt
