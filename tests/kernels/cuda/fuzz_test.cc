// Random kernels: the emulator reports a race exactly if a plain model of the memory finds one.
#include "tests/kernels/cuda/fuzz.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/cuda/gpu_array.h"

namespace tessera {
namespace {

using cuda::kFuzzThreads;
using cuda::Step;
using cuda::StepKind;
using cuda::StepList;
namespace emulation = simt::emulation;

bool Accesses(StepKind kind) {
  return kind == StepKind::kStore || kind == StepKind::kLoad || kind == StepKind::kAtomic;
}

// Two accesses conflict unless both load or both are atomic.
bool Conflict(StepKind a, StepKind b) {
  if (a == StepKind::kAtomic && b == StepKind::kAtomic) return false;
  return !(a == StepKind::kLoad && b == StepKind::kLoad);
}

// Whether a barrier between steps i and j orders what the two threads do there.
bool OrderedBetween(const StepList& list, int i, int j, int thread_i, int thread_j) {
  if (thread_i == thread_j) return true;
  for (int s = std::min(i, j); s < std::max(i, j); ++s) {
    const StepKind kind = list.steps[s].kind;
    if (kind == StepKind::kBarrier) return true;
    if (kind == StepKind::kSyncWarp && thread_i / 32 == thread_j / 32) return true;
  }
  return false;
}

bool IsRacy(const StepList& list) {
  for (int i = 0; i < list.count; ++i) {
    for (int j = i; j < list.count; ++j) {
      const Step &a = list.steps[i], &b = list.steps[j];
      if (!Accesses(a.kind) || !Accesses(b.kind) || !Conflict(a.kind, b.kind)) continue;
      for (int t = 0; t < kFuzzThreads; ++t) {
        // Thread u accesses in step j the cell that t accesses in step i.
        const int u = ((t + a.shift - b.shift) % kFuzzThreads + kFuzzThreads) % kFuzzThreads;
        if (!OrderedBetween(list, i, j, t, u)) return true;
      }
    }
  }
  return false;
}

StepList RandomSteps(std::mt19937* generator) {
  const auto below = [&](unsigned n) { return static_cast<int>((*generator)() % n); };
  StepList list{};
  list.count = 2 + below(cuda::kMaxSteps - 2);
  for (int i = 0; i < list.count; ++i) {
    constexpr StepKind kKinds[] = {StepKind::kStore,   StepKind::kLoad,     StepKind::kBarrier,
                                   StepKind::kBarrier, StepKind::kSyncWarp, StepKind::kAtomic};
    constexpr int kShifts[] = {0, 0, 1, 32, 63};
    list.steps[i] = {kKinds[below(6)], kShifts[below(5)]};
  }
  return list;
}

std::string Describe(const StepList& list) {
  std::string text;
  for (int i = 0; i < list.count; ++i) {
    const char* names[] = {" store ", " load ", " barrier ", " syncwarp ", " atomic "};
    absl::StrAppend(&text, names[static_cast<int>(list.steps[i].kind)], list.steps[i].shift);
  }
  return text;
}

void ExpectWhatTheModelSays(unsigned seed, bool global) {
  std::mt19937 generator(seed);
  emulation::Options options;
  int racy = 0, right = 0;
  for (int round = 0; round < 150; ++round) {
    options.seed = generator();
    emulation::SetOptions(options);
    const StepList list = RandomSteps(&generator);
    GpuArray<uint32_t> cells(kFuzzThreads);
    ASSERT_EQ(cuda::RunSteps(nullptr, list, global ? cells.get() : nullptr), cudaSuccess);
    cudaDeviceSynchronize();
    const std::string report = simt::fake::AnyReport();
    simt::fake::Reset();
    const bool expected = IsRacy(list);
    ++(expected ? racy : right);
    ASSERT_EQ(report.empty(), !expected)
        << "seed " << seed << ", round " << round << ":" << Describe(list) << "\n"
        << report;
    ASSERT_EQ(report.find("not ordered after") != std::string::npos, expected) << report;
  }
  EXPECT_GT(racy, 20);
  EXPECT_GT(right, 20);
}

// TESSERA_FUZZ_SEED=n repeats a failure.
unsigned Seed() {
  const char* text = std::getenv("TESSERA_FUZZ_SEED");
  return text == nullptr ? 1U : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

TEST(Fuzz, RacesInSharedMemory) { ExpectWhatTheModelSays(Seed(), false); }
TEST(Fuzz, RacesInGlobalMemory) { ExpectWhatTheModelSays(Seed() + 1, true); }

}  // namespace
}  // namespace tessera
