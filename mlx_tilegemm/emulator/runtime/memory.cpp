#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace msl_rt {

namespace {

#if defined(MAP_NORESERVE)
constexpr int map_flags = MAP_PRIVATE | MAP_ANON | MAP_NORESERVE;
#else
constexpr int map_flags = MAP_PRIVATE | MAP_ANON;
#endif

uintptr_t reserve_range(size_t bytes) {
  void* address = mmap(nullptr, bytes, PROT_NONE, map_flags, -1, 0);
  return address == MAP_FAILED ? 0 : reinterpret_cast<uintptr_t>(address);
}

}  // namespace

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

void* map_memory(size_t bytes) {
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, map_flags, -1, 0);
  return address == MAP_FAILED ? nullptr : address;
}

void unmap_memory(void* address, size_t bytes) {
  munmap(address, bytes);
}

AddressSpace* AddressSpace::instance_ = nullptr;
uintptr_t AddressSpace::base_ = 0;
uintptr_t AddressSpace::span_ = 0;

bool AddressSpace::reserve() {
  // 32 GiB a slot keep a 32-bit index that wrapped round within its own slot; small machines and
  // limits on address space get less.
  for (device_shift_ = 35; device_shift_ >= 28; device_shift_ -= 1) {
    span_ = threadgroup_span + (uintptr_t(max_buffers) << device_shift_);
    base_ = reserve_range(span_ + 2 * threadgroup_span);
    if (base_ != 0) return true;
  }
  span_ = 0;
  return false;
}

AddressSpace* AddressSpace::open() {
  if (instance_ != nullptr) return instance_;
  auto* created = new AddressSpace;
  if (created->reserve()) {
    instance_ = created;
  } else {
    delete created;
  }
  return instance_;
}

bool AddressSpace::commit(uintptr_t address, size_t bytes) {
  const uintptr_t page = page_bytes();
  const uintptr_t first = address & ~(page - 1);
  const uintptr_t last = (address + std::max<size_t>(bytes, 1) + page - 1) & ~(page - 1);
  return mprotect(reinterpret_cast<void*>(first), last - first, PROT_READ | PROT_WRITE) == 0;
}

bool AddressSpace::commit_stray(uintptr_t address) {
  const uint32_t entry = stray_count_.fetch_add(1);
  if (entry >= max_strays) return false;
  strays_[entry] = address & ~(page_bytes() - 1);
  return commit(address, 1);
}

void AddressSpace::forget_strays() {
  const uint32_t count = std::min(stray_count_.exchange(0), max_strays);
  for (uint32_t i = 0; i < count; ++i) {
    void* page = reinterpret_cast<void*>(strays_[i]);
    madvise(page, page_bytes(), MADV_DONTNEED);
    mprotect(page, page_bytes(), PROT_NONE);
  }
}

Region* AddressSpace::place_buffer(uint32_t index, size_t bytes, size_t offset) {
  if (index >= max_buffers || bytes > largest_buffer()) return nullptr;
  Region* region = &device_[index];
  const uintptr_t slot = base_ + threadgroup_span + (uintptr_t(index) << device_shift_);
  region->start = slot + (uintptr_t(1) << (device_shift_ - 2)) + offset;
  region->bytes = bytes;
  region->index = index;
  region->space = Space::device;
  return commit(region->start, bytes) ? region : nullptr;
}

Region* AddressSpace::place_storage(
    uint32_t worker, uint32_t declaration, size_t bytes, size_t alignment) {
  Region* region = storage(worker, declaration);
  const uintptr_t slot =
      base_ + (uintptr_t(worker * max_storages + declaration) << threadgroup_shift);
  // An odd multiple of the alignment: aligned as asked for and no better.
  region->start = slot + (uintptr_t(1) << (threadgroup_shift - 1)) + alignment;
  region->bytes = bytes;
  region->index = declaration;
  region->flags = 0;
  region->space = Space::threadgroup;
  if (bytes > (size_t(1) << (threadgroup_shift - 2))) return nullptr;
  return commit(region->start, bytes) ? region : nullptr;
}

bool AddressSpace::track(Region* region, size_t scalar_bytes) {
  region->granule_shift = scalar_bytes >= 4 ? 2 : scalar_bytes >= 2 ? 1 : 0;
  const size_t needed = ((region->bytes >> region->granule_shift) + 2) * sizeof(Cell);
  if (region->cell_bytes >= needed) return true;
  if (region->cells != nullptr) unmap_memory(region->cells, region->cell_bytes);
  region->cells = static_cast<Cell*>(map_memory(needed));
  region->cell_bytes = region->cells == nullptr ? 0 : needed;
  return region->cells != nullptr;
}

bool AddressSpace::commit_shadow(const Region* region) {
  const Shadow shadow = AddressSpace::shadow(region->start);
  return commit(reinterpret_cast<uintptr_t>(shadow.bits), region->bytes) &&
         commit(reinterpret_cast<uintptr_t>(shadow.origin), region->bytes + sizeof(uint32_t));
}

void AddressSpace::release(Region* region) {
  constexpr size_t kept = size_t(64) << 20;
  if (region->bytes > kept) {
    const uintptr_t page = page_bytes();
    const uintptr_t first = region->start & ~(page - 1);
    madvise(reinterpret_cast<void*>(first), region->bytes, MADV_DONTNEED);
  }
  if (region->cell_bytes > kept) {
    unmap_memory(region->cells, region->cell_bytes);
    region->cells = nullptr;
    region->cell_bytes = 0;
  }
}

}  // namespace msl_rt
