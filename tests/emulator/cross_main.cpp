// Runs every kernel of a rewritten text without Python: for machines that can only be emulated. The
// argument is "checked" or "tracked", as the kernels were built; without one nothing is checked.
// Prints a line for each: its number, the kinds of its findings and the sum of its output.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "findings.h"
#include "launch.h"

extern "C" {
int32_t msl_rt_begin(const msl_rt::LaunchArguments* arguments);
int32_t msl_rt_wait(double seconds);
uint32_t msl_rt_end(msl_rt::Counters* counters, msl_rt::Finding* findings, uint32_t capacity);
}

extern const msl_rt::Entry entries[];
extern const unsigned entry_count;

static void run(unsigned number, bool strict, bool tracked) {
  constexpr unsigned count = 256;
  std::vector<float> x(count), y(count);
  for (unsigned i = 0; i < count; ++i) x[i] = 1.0f + 99.0f * float(i) / 255.0f;
  const msl_rt::BufferArgument buffers[] = {
      {x.data(), count * 4, 0, 4, 4, msl_rt::region_read_only | msl_rt::region_initialized},
      {y.data(), count * 4, 0, 4, 4, 0}};
  const uint32_t parameters[] = {
      0, 1, msl_rt::no_memory, msl_rt::no_memory, msl_rt::no_memory, msl_rt::no_memory,
      msl_rt::no_memory};
  const uint32_t sizes[] = {4, 4, 1, 1, 1, 1, 1};
  const char* const names[] = {"x", "y", "", "", "", "", ""};
  msl_rt::LaunchArguments arguments = {};
  arguments.entry = entries[number];
  arguments.buffers = buffers;
  arguments.parameters = parameters;
  arguments.element_sizes = sizes;
  arguments.scalar_sizes = sizes;
  arguments.parameter_names = names;
  arguments.buffer_count = 2;
  arguments.parameter_count = 7;
  const uint32_t grid[] = {count, 1, 1}, group[] = {64, 1, 1};
  for (int i = 0; i < 3; ++i) {
    arguments.grid[i] = grid[i];
    arguments.threadgroup[i] = group[i];
  }
  arguments.strict = strict;
  arguments.tracked = tracked;
  arguments.workers = 2;
  if (msl_rt_begin(&arguments) != 0) {
    std::printf("%u failed\n", number);
    return;
  }
  while (!msl_rt_wait(10.0)) {
  }
  static msl_rt::Finding findings[1024];
  msl_rt::Counters counters;
  const uint32_t found = msl_rt_end(&counters, findings, 1024);
  uint32_t kinds = 0;
  for (uint32_t i = 0; i < found; ++i) kinds |= 1u << uint32_t(findings[i].kind);
  double sum = 0.0;
  for (float value : y) sum += std::isfinite(value) ? value : 0.0;
  std::printf("%u %u %.3f\n", number, kinds, sum);
  std::fflush(stdout);
}

int main(int argc, char** argv) {
  const bool tracked = argc > 1 && std::strcmp(argv[1], "tracked") == 0;
  for (unsigned number = 0; number < entry_count; ++number) run(number, argc > 1, tracked);
}
