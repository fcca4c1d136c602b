#include "accesses.h"

#include <algorithm>

#include "worker.h"

namespace msl_rt {

namespace {

// What one instruction of a lane moves at most.
constexpr size_t widest_access = 16;
constexpr uint32_t line_shift = 7;
constexpr uint32_t word_shift = 2;
constexpr uint32_t banks = 32;

// Turns of the busiest bank, for distinct words.
uint64_t bank_turns(const uint64_t* words, size_t count) {
  uint32_t turns[banks] = {};
  for (size_t i = 0; i < count; ++i) ++turns[words[i] % banks];
  return *std::max_element(turns, turns + banks);
}

// Lines that distinct words in rising order lie in.
uint64_t touched_lines(const uint64_t* words, size_t count) {
  constexpr uint32_t shift = line_shift - word_shift;
  uint64_t lines = 0;
  for (size_t i = 0; i < count; ++i) {
    if (i == 0 || words[i] >> shift != words[i - 1] >> shift) ++lines;
  }
  return lines;
}

}  // namespace

void AccessLog::begin() {
  sites_.clear();
  for (Lines& lines : lines_) {
    lines.stamps.clear();
    lines.by_threadgroup = 0;
  }
  threadgroup_ = 0;
}

void AccessLog::start_threadgroup(uint32_t threads) {
  ++threadgroup_;
  digest_ = 0;
  threads_ = threads;
  lanes_.resize((threads + simd_width - 1) / simd_width * simd_width);
  for (Notes& notes : lanes_) notes.clear();
}

void AccessLog::note(
    uint32_t thread, const Region* region, uintptr_t address, size_t bytes, bool stores,
    uint64_t pc) {
  if (region->space == Space::device) touch_lines(region, address, bytes);
  // A copy of more than one instruction moves: its parts count as places of their own.
  for (size_t part = 0; part * widest_access < bytes; ++part) {
    const size_t offset = part * widest_access;
    Note next = {};
    next.pc = pc + part;
    next.address = address + offset;
    next.region = region;
    next.bytes = static_cast<uint32_t>(std::min(widest_access, bytes - offset));
    next.stores = stores;
    lanes_[thread].push_back(next);
  }
}

void AccessLog::touch_lines(const Region* region, uintptr_t address, size_t bytes) {
  Lines* lines = &lines_[region->index];
  const uintptr_t start = region->start >> line_shift;
  if (lines->stamps.empty()) {
    lines->stamps.resize(((region->start + region->bytes) >> line_shift) - start + 1);
  }
  const uintptr_t end = (address + bytes - 1) >> line_shift;
  for (uintptr_t line = address >> line_shift; line <= end; ++line) {
    uint64_t* stamp = &lines->stamps[line - start];
    if (*stamp == threadgroup_) continue;
    *stamp = threadgroup_;
    ++lines->by_threadgroup;
    digest_ += mix(region->index + 1);
  }
}

void AccessLog::settle_all() {
  for (uint32_t first = 0; first < lanes_.size(); first += simd_width) settle(first / simd_width);
}

void AccessLog::settle(uint32_t simdgroup) {
  Notes* lanes = &lanes_[simdgroup * simd_width];
  groups_.clear();
  if (are_alike(lanes)) {
    group_alike(lanes);
  } else {
    group_apart(lanes);
  }
  for (uint32_t n = 0; n < groups_.size(); ++n) widen(n);
  for (const Group& group : groups_) {
    if (group.first == none) count_group(group);
  }
  for (uint32_t i = 0; i < simd_width; ++i) lanes[i].clear();
}

bool AccessLog::are_alike(const Notes* lanes) {
  for (uint32_t i = 1; i < simd_width; ++i) {
    if (lanes[i].size() != lanes[0].size()) return false;
    for (size_t n = 0; n < lanes[0].size(); ++n) {
      if (lanes[i][n].pc != lanes[0][n].pc) return false;
      if (lanes[i][n].region != lanes[0][n].region) return false;
    }
  }
  return true;
}

// The common case: every lane went the same way.
void AccessLog::group_alike(Notes* lanes) {
  uint32_t last[2] = {none, none};  // by space
  for (uint32_t n = 0; n < lanes[0].size(); ++n) {
    uint32_t* before = &last[static_cast<uint32_t>(lanes[0][n].region->space)];
    groups_.push_back({});
    for (uint32_t i = 0; i < simd_width; ++i) groups_[n].add(i, &lanes[i][n], *before);
    *before = n;
  }
}

void AccessLog::group_apart(Notes* lanes) {
  std::unordered_map<Key, std::vector<uint32_t>, Hash> known;  // groups of a place, by occurrence
  std::unordered_map<Key, uint32_t, Hash> occurrences;
  for (uint32_t i = 0; i < simd_width; ++i) {
    occurrences.clear();
    uint32_t last[2] = {none, none};
    for (Note& note : lanes[i]) {
      const Key key = {note.pc, note.region, note.stores};
      std::vector<uint32_t>* of_place = &known[key];
      const uint32_t occurrence = occurrences[key]++;
      if (occurrence == of_place->size()) {
        of_place->push_back(static_cast<uint32_t>(groups_.size()));
        groups_.push_back({});
      }
      const uint32_t group = (*of_place)[occurrence];
      uint32_t* before = &last[static_cast<uint32_t>(note.region->space)];
      groups_[group].add(i, &note, *before);
      *before = group;
    }
  }
}

void AccessLog::Group::add(uint32_t lane, Note* note, uint32_t last) {
  if (lanes == 0) before = last;
  if (before != last) before = none;
  notes[lane] = note;
  lanes |= uint32_t(1) << lane;
}

// Neighbours that all lanes use one after the other are one access: compilers unroll loops and make
// one instruction of them. The second of two becomes a part of the first.
void AccessLog::widen(uint32_t number) {
  Group* group = &groups_[number];
  if (group->before == none) return;
  const Group& before = groups_[group->before];
  const uint32_t first = before.first == none ? group->before : before.first;
  const Group& whole = groups_[first];
  if (whole.lanes != group->lanes) return;
  for (uint32_t rest = group->lanes; rest; rest &= rest - 1) {
    const uint32_t lane = __builtin_ctz(rest);
    if (!touch(*whole.notes[lane], *group->notes[lane])) return;
  }
  group->first = first;
  for (uint32_t rest = group->lanes; rest; rest &= rest - 1) {
    Note* note = whole.notes[__builtin_ctz(rest)];
    const Note& part = *group->notes[__builtin_ctz(rest)];
    note->address = std::min(note->address, part.address);
    note->bytes += part.bytes;
  }
}

bool AccessLog::touch(const Note& one, const Note& other) {
  if (one.region != other.region || one.stores != other.stores) return false;
  if (one.bytes + other.bytes > widest_access) return false;
  return one.address + one.bytes == other.address || other.address + other.bytes == one.address;
}

void AccessLog::count_group(const Group& group) {
  const Note& first = *group.notes[__builtin_ctz(group.lanes)];
  const bool in_threadgroup = first.region->space == Space::threadgroup;
  // Threadgroup arrays begin at a bank of their own; a line is a line wherever its buffer begins.
  const uintptr_t origin = in_threadgroup ? first.region->start : 0;
  uint64_t words[simd_width * (widest_access / 4 + 1)];
  size_t count = 0;
  AccessSite* site = &sites_[{first.pc, first.region, first.stores}];
  for (uint32_t rest = group.lanes; rest; rest &= rest - 1) {
    const Note& note = *group.notes[__builtin_ctz(rest)];
    const uintptr_t start = note.address - origin;
    const uintptr_t end = (start + note.bytes - 1) >> word_shift;
    for (uintptr_t word = start >> word_shift; word <= end; ++word) words[count++] = word;
    site->bytes += note.bytes;
  }
  std::sort(words, words + count);
  count = static_cast<size_t>(std::unique(words, words + count) - words);
  const uint64_t lanes = static_cast<uint64_t>(__builtin_popcount(group.lanes));
  const uint64_t transactions =
      in_threadgroup ? bank_turns(words, count) : touched_lines(words, count);
  site->accesses += 1;
  site->lanes += lanes;
  site->transactions += transactions;
  site->fewest_transactions += (count + banks - 1) / banks;
  digest_ += mix(first.pc + mix(lanes << 32 | transactions << 16 | count));
}

void AccessLog::add_sites(std::vector<AccessSite>* sites) const {
  for (const auto& [key, counted] : sites_) {
    AccessSite site = counted;
    site.pc = key.pc;
    site.space = static_cast<uint32_t>(key.region->space);
    site.owner = key.region->index;
    site.stores = key.stores ? 1 : 0;
    sites->push_back(site);
  }
}

void AccessLog::mark_lines(uint32_t buffer, std::vector<bool>* touched) const {
  const std::vector<uint64_t>& stamps = lines_[buffer].stamps;
  if (touched->size() < stamps.size()) touched->resize(stamps.size());
  for (size_t i = 0; i < stamps.size(); ++i) {
    if (stamps[i] != 0) (*touched)[i] = true;
  }
}

}  // namespace msl_rt
