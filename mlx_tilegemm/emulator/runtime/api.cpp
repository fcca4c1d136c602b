// The C interface that the Python driver uses. One launch at a time; the driver holds a lock.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>

#include "pool.h"
#include "shadow.h"

using namespace msl_rt;

namespace {

// Failures of msl_rt_begin.
enum Failure : int32_t {
  no_failure = 0,
  no_address_space = 1,
  buffer_too_large = 2,
  out_of_memory = 3,
};

Launch* the_launch = nullptr;

void shuffle(std::vector<uint32_t>* order, uint64_t count, uint64_t seed) {
  order->resize(count);
  for (uint64_t i = 0; i < count; ++i) (*order)[i] = static_cast<uint32_t>(i);
  for (uint64_t i = count; i > 1; --i) {
    seed = mix(seed + 0x9e3779b97f4a7c15ull);
    std::swap((*order)[i - 1], (*order)[seed % i]);
  }
}

uint32_t divide_up(uint32_t a, uint32_t b) {
  return (a + b - 1) / b;
}

void set_geometry(Launch* launch) {
  const LaunchArguments& arguments = launch->arguments;
  const uint32_t* grid = arguments.grid;
  uint32_t size[3];
  for (int i = 0; i < 3; ++i) size[i] = std::min(arguments.threadgroup[i], grid[i]);
  launch->grid = {grid[0], grid[1], grid[2]};
  launch->threadgroup = {size[0], size[1], size[2]};
  launch->threadgroups = {
      divide_up(grid[0], size[0]), divide_up(grid[1], size[1]), divide_up(grid[2], size[2])};
  const Extent& groups = launch->threadgroups;
  launch->grid_count = uint64_t(groups.x) * groups.y * groups.z;
  launch->threadgroup_count = launch->grid_count;
  if (arguments.sample > 1) {
    launch->threadgroup_count = std::min<uint64_t>(launch->grid_count, arguments.sample);
  }
}

// Unwritten bytes of a float buffer read as NaN.
void fill(Region* region, const BufferArgument& buffer) {
  void* start = reinterpret_cast<void*>(region->start);
  if (buffer.flags & region_initialized) {
    std::memcpy(start, buffer.data, region->bytes);
  } else {
    std::memset(start, 0xff, region->bytes);
  }
}

int32_t place_buffer(const Launch& launch, uint32_t index) {
  AddressSpace* space = AddressSpace::instance();
  const BufferArgument& buffer = launch.arguments.buffers[index];
  const size_t offset = launch.arguments.misalign ? buffer.alignment : 0;
  const size_t bytes = buffer.bytes;
  if (bytes > space->largest_buffer()) return buffer_too_large;
  Region* region = space->place_buffer(index, bytes, offset);
  if (region == nullptr) return out_of_memory;
  region->flags = buffer.flags;
  const bool tracked = launch.strict && !(buffer.flags & region_read_only);
  if (tracked && !space->track(region, buffer.scalar_size)) return out_of_memory;
  fill(region, buffer);
  return no_failure;
}

int32_t place_buffers(const Launch& launch) {
  if (AddressSpace::open() == nullptr) return no_address_space;
  for (uint32_t i = 0; i < launch.arguments.buffer_count; ++i) {
    if (const int32_t failure = place_buffer(launch, i)) return failure;
  }
  return no_failure;
}

// The buffers that a launch has to fill.
std::vector<const Region*> outputs(const Launch& launch) {
  std::vector<const Region*> found;
  for (uint32_t i = 0; i < launch.arguments.buffer_count; ++i) {
    const Region* region = AddressSpace::instance()->buffer(i);
    if (!(region->flags & (region_read_only | region_initialized))) found.push_back(region);
  }
  return found;
}

// Outputs of which a sample filled more or less than its share. No two threadgroups may store to one
// place, so that in a grid of equals each fills as much.
uint64_t uneven_outputs(const Launch& launch) {
  uint64_t uneven = 0;
  for (const Region* region : outputs(launch)) {
    const size_t granules = region->bytes >> region->granule_shift;
    size_t first = 0;
    const size_t filled = granules - count_unwritten(launch, region, &first);
    if (filled * launch.grid_count != granules * launch.threadgroup_count) ++uneven;
  }
  return uneven;
}

void copy_back(const Launch& launch) {
  for (uint32_t i = 0; i < launch.arguments.buffer_count; ++i) {
    const BufferArgument& buffer = launch.arguments.buffers[i];
    Region* region = AddressSpace::instance()->buffer(i);
    if (!(buffer.flags & region_read_only)) {
      std::memcpy(buffer.data, reinterpret_cast<void*>(region->start), region->bytes);
    }
    AddressSpace::instance()->release(region);
  }
}

void add(Counters* total, const Counters& part) {
  const uint64_t most = std::max(total->threadgroup_bytes, part.threadgroup_bytes);
  for (size_t i = 0; i < counter_words; ++i) {
    reinterpret_cast<uint64_t*>(total)[i] += words_of(part)[i];
  }
  total->threadgroup_bytes = most;
}

// Of a threadgroup array; a worker that ran no threadgroup does not know it.
const char* storage_name(uint32_t declaration) {
  for (uint32_t w = 0; w < Pool::instance().started(); ++w) {
    const char* name = Pool::instance().worker(w)->storages[declaration].name;
    if (name != nullptr) return name;
  }
  return nullptr;
}

}  // namespace

extern "C" {

MSL_RT_EXPORT uint32_t msl_rt_version() {
  return 1;
}

MSL_RT_EXPORT int32_t msl_rt_begin(const LaunchArguments* arguments) {
  auto* launch = new Launch;
  launch->arguments = *arguments;
  launch->strict = arguments->strict != 0;
  launch->order = static_cast<Order>(arguments->order);
  set_geometry(launch);
  if (launch->order == Order::random) {
    shuffle(&launch->shuffled, launch->threadgroup_count, arguments->seed);
  }
  int32_t failure = place_buffers(*launch);
  const uint64_t most = std::max<uint64_t>(1, launch->threadgroup_count);
  const uint64_t workers = std::min<uint64_t>({arguments->workers, max_workers, most});
  if (failure == no_failure && !Pool::instance().start(launch, static_cast<uint32_t>(workers))) {
    failure = out_of_memory;
  }
  if (failure != no_failure) {
    delete launch;
    return failure;
  }
  the_launch = launch;
  return no_failure;
}

MSL_RT_EXPORT int32_t msl_rt_wait(double seconds) {
  return Pool::instance().wait(seconds);
}

MSL_RT_EXPORT void msl_rt_cancel() {
  the_launch->stop.store(true);
  Pool::instance().cancel();
}

// Gives back what the launch left: outputs in the caller's buffers, counters, findings. Returns the
// number of findings.
MSL_RT_EXPORT uint32_t msl_rt_end(Counters* counters, Finding* findings, uint32_t capacity) {
  Pool& pool = Pool::instance();
  const bool complete = !the_launch->stop.load() && !the_launch->is_sample();
  if (the_launch->strict && complete) {
    for (const Region* output : outputs(*the_launch)) {
      check_written(the_launch, output, pool.worker(0));
    }
  }
  const bool is_sample = the_launch->strict && the_launch->is_sample();
  const uint64_t uneven = is_sample ? uneven_outputs(*the_launch) : 0;
  copy_back(*the_launch);
  AddressSpace::instance()->forget_strays();
  *counters = {};
  counters->uneven = uneven;
  uint32_t count = 0;
  for (uint32_t w = 0; w < pool.started(); ++w) {
    const Worker& worker = *pool.worker(w);
    add(counters, worker.counters);
    for (size_t i = 0; i < worker.findings.size() && count < capacity; ++i) {
      findings[count++] = worker.findings[i];
    }
  }
  delete the_launch;
  the_launch = nullptr;
  return count;
}

// What the latest launch's lanes accessed together, by place in the code. Returns the number of
// places, of which no more than `capacity` are copied.
MSL_RT_EXPORT uint32_t msl_rt_sites(AccessSite* sites, uint32_t capacity) {
  std::vector<AccessSite> found;
  for (uint32_t w = 0; w < Pool::instance().started(); ++w) {
    const Worker& worker = *Pool::instance().worker(w);
    if (worker.accesses) worker.accesses->add_sites(&found);
  }
  for (AccessSite& site : found) {
    const bool in_threadgroup = site.space == static_cast<uint32_t>(Space::threadgroup);
    site.name = in_threadgroup ? storage_name(site.owner) : nullptr;
  }
  std::copy_n(found.begin(), std::min<size_t>(found.size(), capacity), sites);
  return static_cast<uint32_t>(found.size());
}

// 128-byte lines of a buffer that the latest launch touched: those of each threadgroup, added up,
// and those of all together.
MSL_RT_EXPORT void msl_rt_lines(uint32_t buffer, uint64_t* by_threadgroup, uint64_t* distinct) {
  std::vector<bool> touched;
  *by_threadgroup = 0;
  for (uint32_t w = 0; w < Pool::instance().started(); ++w) {
    const Worker& worker = *Pool::instance().worker(w);
    if (!worker.accesses) continue;
    *by_threadgroup += worker.accesses->threadgroup_lines(buffer);
    worker.accesses->mark_lines(buffer, &touched);
  }
  *distinct = static_cast<uint64_t>(std::count(touched.begin(), touched.end(), true));
}

// Offset of a code address in the library that holds it, and the library's path.
MSL_RT_EXPORT uint64_t msl_rt_locate(uint64_t pc, char* path, uint32_t capacity) {
  Dl_info info;
  if (capacity == 0 || dladdr(reinterpret_cast<void*>(pc), &info) == 0) return 0;
  std::strncpy(path, info.dli_fname, capacity - 1);
  path[capacity - 1] = 0;
  return pc - reinterpret_cast<uint64_t>(info.dli_fbase);
}

}  // extern "C"
