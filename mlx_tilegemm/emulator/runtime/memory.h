// One reserved address range that holds every buffer and every threadgroup array, so that an
// address tells where it belongs. Around each block lies memory that nothing owns.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "unset.h"

namespace msl_rt {

constexpr uint32_t max_buffers = 64;
constexpr uint32_t max_workers = 64;
constexpr uint32_t max_storages = 64;  // threadgroup arrays of one kernel

enum class Space : uint32_t { device, threadgroup };

constexpr uint32_t region_read_only = 1;
constexpr uint32_t region_initialized = 2;

// Last write and last read of one granule; see shadow.h.
struct Cell {
  uint64_t write;
  uint64_t read;
  uint32_t write_site;  // see address_of
  uint32_t read_site;
};

struct Region {
  uintptr_t start = 0;
  size_t bytes = 0;
  Cell* cells = nullptr;  // null: not tracked
  uint32_t granule_shift = 0;
  uint32_t flags = 0;
  uint32_t index = 0;  // of the buffer or of the threadgroup declaration
  Space space = Space::device;
  size_t cell_bytes = 0;  // mapped for `cells`; kept from launch to launch

  bool holds(uintptr_t address, size_t size) const {
    const uintptr_t offset = address - start;
    return offset < bytes && size <= bytes - offset;
  }
};

class AddressSpace {
 public:
  // Null when no address range could be reserved, and before the first call of open.
  static AddressSpace* instance() { return instance_; }
  static AddressSpace* open();

  // Whether an address may be one of ours; most accesses of checked code are to stacks.
  static bool owns(uintptr_t address) { return address - base_ < span_; }

  // Of an address in a threadgroup array.
  static Shadow shadow(uintptr_t address) {
    return {
        reinterpret_cast<unsigned char*>(address + span_),
        reinterpret_cast<uint32_t*>((address + span_ + threadgroup_span) & ~uintptr_t(3))};
  }

  // The region of a slot that holds `address`, even when the address is outside the block itself.
  Region* find(uintptr_t address) {
    const uintptr_t offset = address - base_;
    if (offset < threadgroup_span) return &threadgroup_[offset >> threadgroup_shift];
    if (offset < span_) return &device_[(offset - threadgroup_span) >> device_shift_];
    return nullptr;
  }

  // Places a block in a slot, `offset` bytes past a page's start, with memory behind it.
  Region* place_buffer(uint32_t index, size_t bytes, size_t offset);
  Region* place_storage(uint32_t worker, uint32_t declaration, size_t bytes, size_t alignment);

  // Gives a region cells for granules of min(4, scalar_bytes). Old records stay in them: their
  // clocks tell that they are old.
  bool track(Region* region, size_t scalar_bytes);

  // Makes the shadow of a threadgroup array usable.
  bool commit_shadow(const Region* region);

  Region* buffer(uint32_t index) { return &device_[index]; }
  Region* storage(uint32_t worker, uint32_t declaration) {
    return &threadgroup_[worker * max_storages + declaration];
  }

  // Makes the pages of a range usable.
  bool commit(uintptr_t address, size_t bytes);

  // The same for one page that an access strayed to; undone by forget_strays. False when there
  // were too many.
  bool commit_stray(uintptr_t address);
  void forget_strays();

  // Returns the memory of large blocks to the system.
  void release(Region* region);

  size_t largest_buffer() const { return (size_t(1) << device_shift_) / 2; }

 private:
  AddressSpace() = default;
  bool reserve();

  // One range: the threadgroup slots of all workers, the slots of the buffers, and then shadows and
  // origins of the threadgroup slots, which are not counted in span_.
  static constexpr uint32_t threadgroup_shift = 24;
  static constexpr uintptr_t threadgroup_span = uintptr_t(max_workers * max_storages)
                                                << threadgroup_shift;
  static AddressSpace* instance_;
  static uintptr_t base_, span_;
  uint32_t device_shift_ = 0;
  static constexpr uint32_t max_strays = 1024;
  std::atomic<uint32_t> stray_count_{0};
  uintptr_t strays_[max_strays] = {};
  Region device_[max_buffers];
  Region threadgroup_[max_workers * max_storages];
};

void* map_memory(size_t bytes);  // zeroed, null on failure
void unmap_memory(void* address, size_t bytes);
size_t page_bytes();

}  // namespace msl_rt
