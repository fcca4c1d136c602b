// What the accesses of a simdgroup's lanes are together. A lane leaves a note of every access; where
// the lanes meet again, their notes are put together: the n-th access of each lane at one place in
// the code is one access of the simdgroup, of which it is known how many 128-byte lines of device
// memory it touches or how many turns the 32 banks of threadgroup memory take for it.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "../include/executor/runtime.h"
#include "memory.h"

namespace msl_rt {

// Accesses at one place in the code to one block of memory. The Python side mirrors this layout.
struct AccessSite {
  uint64_t pc;
  uint32_t space;
  uint32_t owner;  // of the buffer or of the threadgroup declaration
  uint32_t stores;
  const char* name;   // of a threadgroup array
  uint64_t accesses;  // by simdgroup
  uint64_t lanes;     // that took part
  uint64_t bytes;
  uint64_t transactions;         // lines or turns
  uint64_t fewest_transactions;  // that any layout of as many distinct words needs
};

class AccessLog {
 public:
  void begin();  // a launch
  void start_threadgroup(uint32_t threads);
  void note(
      uint32_t thread, const Region* region, uintptr_t address, size_t bytes, bool stores,
      uint64_t pc);
  void settle(uint32_t simdgroup);
  void settle_all();
  // Of what the running threadgroup has accessed, in whichever order.
  uint64_t digest() const { return digest_; }

  void add_sites(std::vector<AccessSite>* sites) const;
  uint64_t threadgroup_lines(uint32_t buffer) const { return lines_[buffer].by_threadgroup; }
  // Marks the lines of a buffer that were touched at all.
  void mark_lines(uint32_t buffer, std::vector<bool>* touched) const;

 private:
  static constexpr uint32_t none = UINT32_MAX;

  struct Note {
    uint64_t pc;
    uintptr_t address;
    const Region* region;
    uint32_t bytes;
    bool stores;
  };

  using Notes = std::vector<Note>;  // of one lane

  // What lanes do at one place for the n-th time.
  struct Group {
    uint32_t lanes = 0;
    uint32_t before = none;  // the group that came before in the same space, the same for all lanes
    uint32_t first = none;   // the group that this one is a part of
    Note* notes[simd_width];

    void add(uint32_t lane, Note* note, uint32_t last);
  };

  struct Lines {
    std::vector<uint64_t> stamps;  // by line: the last threadgroup that touched it
    uint64_t by_threadgroup = 0;   // distinct lines of each threadgroup, added up
  };

  struct Key {
    uint64_t pc;
    const Region* region;
    bool stores;
    bool operator==(const Key& other) const {
      return pc == other.pc && region == other.region && stores == other.stores;
    }
  };

  struct Hash {
    size_t operator()(const Key& key) const {
      return (key.pc * 0x9e3779b97f4a7c15ull) ^ (reinterpret_cast<uintptr_t>(key.region) >> 4) ^
             uintptr_t(key.stores);
    }
  };

  static bool are_alike(const Notes* lanes);
  static bool touch(const Note& one, const Note& other);
  void group_alike(Notes* lanes);
  void group_apart(Notes* lanes);
  void widen(uint32_t number);
  void count_group(const Group& group);
  void touch_lines(const Region* region, uintptr_t address, size_t bytes);

  std::vector<Notes> lanes_;
  Lines lines_[max_buffers];
  std::unordered_map<Key, AccessSite, Hash> sites_;
  std::vector<Group> groups_;
  uint64_t threadgroup_ = 0;
  uint64_t digest_ = 0;
  uint32_t threads_ = 0;
};

}  // namespace msl_rt
