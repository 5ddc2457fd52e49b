#include "server/heap_trimmer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/support/cpu_time.h"

namespace tessera {
namespace {

constexpr int64_t kMiB = 1 << 20;

int64_t ResidentBytes() {
  int64_t total = 0;
  int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Small blocks of an arena that a last one holds up, as the calls of a burst leave them.
std::unique_ptr<char[]> LeaveFreeMemory(int64_t bytes) {
  constexpr int64_t kBlock = 16 << 10;
  std::unique_ptr<char[]> last;
  std::thread([&] {
    std::vector<std::unique_ptr<char[]>> blocks;
    for (int64_t held = 0; held < bytes; held += kBlock) {
      blocks.push_back(std::make_unique<char[]>(kBlock));
      std::memset(blocks.back().get(), 1, kBlock);
    }
    last = std::make_unique<char[]>(kBlock);
  }).join();
  return last;
}

TEST(HeapTrimmerTest, GivesBackWhatABurstHasLeft) {
#ifndef __GLIBC__
  GTEST_SKIP() << "another heap";
#endif
  if (kSlowdown > 1) GTEST_SKIP() << "sanitizers have a heap of their own";
  const int64_t before = ResidentBytes();
  const HeapTrimmer trimmer({.interval = absl::Milliseconds(300), .growth_bytes = 8 * kMiB});
  const std::unique_ptr<char[]> last = LeaveFreeMemory(64 * kMiB);
  EXPECT_GT(ResidentBytes(), before + 48 * kMiB);
  for (int tries = 0; tries < 1000 && ResidentBytes() > before + 8 * kMiB; ++tries) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_LT(ResidentBytes(), before + 8 * kMiB);
}

}  // namespace
}  // namespace tessera
