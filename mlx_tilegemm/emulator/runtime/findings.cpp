#include "findings.h"

#include <cstring>

namespace msl_rt {

Finding* FindingLog::add(
    Kind kind, uint64_t pc, const char* file, int32_t line, Owner owner, uint32_t index) {
  for (size_t i = 0; i < size_; ++i) {
    Finding& known = entries_[i];
    if (known.kind == kind && known.pc == pc && known.line == line && known.owner == owner &&
        known.owner_index == index) {
      ++known.count;
      return nullptr;
    }
  }
  if (size_ == capacity) return nullptr;
  Finding& entry = entries_[size_++];
  std::memset(&entry, 0, sizeof(entry));
  entry.kind = kind;
  entry.pc = pc;
  entry.file = file;
  entry.line = line;
  entry.owner = owner;
  entry.owner_index = index;
  entry.other_thread = -1;
  entry.other_threadgroup = -1;
  entry.count = 1;
  return &entry;
}

}  // namespace msl_rt
