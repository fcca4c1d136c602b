#include "findings.h"

#include <cstring>

namespace msl_rt {

static bool is_same(const Finding& known, const FindingLog::Key& key) {
  return known.kind == key.kind && known.pc == key.pc && known.other_pc == key.other_pc &&
         known.line == key.line && known.owner == key.owner &&
         known.owner_index == key.owner_index;
}

bool FindingLog::has(Kind kind) const {
  for (size_t i = 0; i < size_; ++i) {
    if (entries_[i].kind == kind) return true;
  }
  return false;
}

Finding* FindingLog::add(const Key& key) {
  for (size_t i = 0; i < size_; ++i) {
    if (!is_same(entries_[i], key)) continue;
    ++entries_[i].count;
    return nullptr;
  }
  if (size_ == capacity) return nullptr;
  Finding& entry = entries_[size_++];
  std::memset(&entry, 0, sizeof(entry));
  entry.kind = key.kind;
  entry.owner = key.owner;
  entry.owner_index = key.owner_index;
  entry.line = key.line;
  entry.pc = key.pc;
  entry.other_pc = key.other_pc;
  entry.file = key.file;
  entry.count = 1;
  return &entry;
}

}  // namespace msl_rt
