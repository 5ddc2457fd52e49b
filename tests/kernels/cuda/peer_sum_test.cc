// Sums over the memory of peers: the bits of a sum in rank order, in graphs too, for any schedule;
// what ends a wait; and bugs that must be found.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/cuda/emulation/emulator.h"
#include "tests/kernels/cuda/moved_bytes.h"
#include "tests/kernels/cuda/peer_ranks.h"

namespace tessera::cuda {

// The copies, see CMakeLists.txt.
#define TESSERA_PEER_SUM_COPY(name)                                            \
  namespace name {                                                             \
  cudaError_t LaunchPeerSum(cudaStream_t stream, const PeerSumLaunch& launch); \
  }
TESSERA_PEER_SUM_COPY(peer_sum_no_release)
TESSERA_PEER_SUM_COPY(peer_sum_no_acquire)
TESSERA_PEER_SUM_COPY(peer_sum_one_buffer)
TESSERA_PEER_SUM_COPY(peer_sum_sent_too_early)
TESSERA_PEER_SUM_COPY(peer_sum_descending)

namespace {

namespace emulation = simt::emulation;
using testing::HasSubstr;
using Launcher = cudaError_t(cudaStream_t stream, const PeerSumLaunch& launch);

class PeerSum : public testing::Test {
 protected:
  ~PeerSum() override { emulation::SetOptions(emulation::OptionsFromEnvironment()); }

  static void SetSeed(uint64_t seed) {
    emulation::Options options = emulation::OptionsFromEnvironment();
    options.seed = seed;
    options.patience_milliseconds = 1000;
    emulation::SetOptions(options);
  }
};

// Sign and mantissa at random, exponents near each other: the order of additions shows in the bits.
std::vector<uint32_t> RandomFloats(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> bits(count);
  for (uint32_t& each : bits) {
    each = static_cast<uint32_t>(random());
    each = (each & 0x807fffffU) | (115 + (each >> 23) % 24) << 23;
  }
  return bits;
}

// Data of every rank, and what they add up to; T: float bits or bf16 bits.
template <typename T>
struct Case {
  std::vector<std::vector<T>> inputs;
  std::vector<T> sums;

  Case(int ranks, size_t count, uint64_t seed) : sums(count) {
    std::vector<float> total(count);
    for (int rank = 0; rank < ranks; ++rank) {
      const auto bits = RandomFloats(count, seed * 100 + static_cast<uint64_t>(rank));
      std::vector<T> values(count);
      for (size_t i = 0; i < count; ++i) {
        values[i] = static_cast<T>(sizeof(T) == 2 ? bits[i] >> 16 : bits[i]);
        const float value = sizeof(T) == 2 ? BF16ToFloat(static_cast<uint16_t>(values[i]))
                                           : std::bit_cast<float>(bits[i]);
        total[i] = rank == 0 ? value : total[i] + value;
      }
      inputs.push_back(std::move(values));
    }
    for (size_t i = 0; i < count; ++i) {
      sums[i] = static_cast<T>(sizeof(T) == 2 ? FloatToBF16(total[i])
                                              : std::bit_cast<uint32_t>(total[i]));
    }
  }
};

template <typename T>
constexpr Element kElement = sizeof(T) == 2 ? Element::kBf16 : Element::kF32;

// Arrays of all ranks, `gap` elements behind the beginning of an allocation, with one untouched
// element behind each.
template <typename T>
class Arrays {
 public:
  Arrays(const std::vector<std::vector<T>>& inputs, size_t gap) : gap_(gap) {
    for (size_t rank = 0; rank < inputs.size(); ++rank) {
      cudaSetDevice(static_cast<int>(rank));
      std::vector<T> values(gap, kGuard);
      values.insert(values.end(), inputs[rank].begin(), inputs[rank].end());
      values.push_back(kGuard);
      arrays_.push_back(std::make_unique<GpuArray<T>>(values));
    }
    cudaSetDevice(0);
  }
  T* at(int rank) const { return arrays_[static_cast<size_t>(rank)]->get() + gap_; }
  void Expect(const std::vector<T>& sums) const {
    for (size_t rank = 0; rank < arrays_.size(); ++rank) {
      cudaSetDevice(static_cast<int>(rank));
      std::vector<T> expected(gap_, kGuard);
      expected.insert(expected.end(), sums.begin(), sums.end());
      expected.push_back(kGuard);
      EXPECT_EQ(arrays_[rank]->Values(), expected) << "rank " << rank;
    }
    cudaSetDevice(0);
  }

 private:
  static constexpr T kGuard = 0x1234;
  size_t gap_;
  std::vector<std::unique_ptr<GpuArray<T>>> arrays_;
};

template <typename T>
void Launch(Launcher* launcher, const PeerRanks& ranks, const Arrays<T>& arrays, size_t count) {
  for (int rank = 0; rank < ranks.size(); ++rank) {
    cudaSetDevice(rank);
    EXPECT_EQ(launcher(ranks.stream(rank), {.group = ranks.Group(rank),
                                            .data = arrays.at(rank),
                                            .element = kElement<T>,
                                            .count = static_cast<int64_t>(count)}),
              cudaSuccess);
  }
  cudaSetDevice(0);
}

template <typename T>
void CheckSums(int ranks, uint64_t seed) {
  PeerRanks group(ranks);
  std::mt19937_64 random(seed);
  for (const size_t count : {1UL, 7UL, 100UL, 2048UL, 2048UL + 8 + random() % 3000}) {
    const size_t gap = random() % 3 == 0 ? random() % 8 : 0;
    SCOPED_TRACE(testing::Message() << ranks << " ranks, " << count << " elements of " << sizeof(T)
                                    << " bytes, gap " << gap << ", seed " << seed);
    const Case<T> sums(ranks, count, seed);
    const Arrays<T> arrays(sums.inputs, gap);
    Launch(&LaunchPeerSum, group, arrays, count);
    ASSERT_EQ(group.Wait(), "");
    arrays.Expect(sums.sums);
  }
}

TEST_F(PeerSum, AddsInRankOrder) {
  uint64_t seed = 0;
  for (const int ranks : {1, 2, 3, 8}) {
    SetSeed(++seed);
    CheckSums<uint32_t>(ranks, seed);
    CheckSums<uint16_t>(ranks, seed);
  }
}

// Nobody waits between sums of different sizes: blocks that only some of them have keep in step.
TEST_F(PeerSum, SumsFollowEachOther) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SetSeed(seed);
    PeerRanks group(3);
    std::vector<Case<uint32_t>> cases;
    std::vector<std::unique_ptr<Arrays<uint32_t>>> arrays;
    for (const size_t count : {100UL, 2100UL, 64UL, 64UL, 4200UL, 2049UL, 8UL}) {
      cases.emplace_back(3, count, seed);
      arrays.push_back(std::make_unique<Arrays<uint32_t>>(cases.back().inputs, 0));
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      Launch(&LaunchPeerSum, group, *arrays[i], cases[i].sums.size());
    }
    ASSERT_EQ(group.Wait(), "") << "seed " << seed;
    for (size_t i = 0; i < cases.size(); ++i) arrays[i]->Expect(cases[i].sums);
  }
}

// Every rank reads its own data, writes them to each peer, reads what came and writes the sum; what
// exceeds that are the flags and those who look at them.
TEST_F(PeerSum, MovesEveryPartOnce) {
  constexpr int kRanks = 3;
  constexpr size_t kCount = 8192;
  SetSeed(7);
  PeerRanks group(kRanks);
  const Case<uint32_t> sums(kRanks, kCount, 7);
  const Arrays<uint32_t> arrays(sums.inputs, 0);
  const uint64_t before = test::MovedBytes();
  Launch(&LaunchPeerSum, group, arrays, kCount);
  ASSERT_EQ(group.Wait(), "");
  const uint64_t moved = test::MovedBytes() - before;
  constexpr uint64_t kFewest = kRanks * 2 * kRanks * kCount * sizeof(float);
  EXPECT_GE(moved, kFewest) << "not everything is counted";
  EXPECT_LE(moved, kFewest + kFewest / 4);
}

// A graph's launches bring new numbers of sums, though its parameters stay.
TEST_F(PeerSum, GraphsReplaySums) {
  constexpr size_t kCount = 72;
  SetSeed(5);
  PeerRanks group(2);
  const Case<uint32_t> first(2, kCount, 5);
  const Arrays<uint32_t> arrays(first.inputs, 0);
  cudaGraphExec_t graphs[2];
  for (int rank = 0; rank < 2; ++rank) {
    cudaSetDevice(rank);
    cudaGraph_t graph;
    ASSERT_EQ(cudaStreamBeginCapture(group.stream(rank), cudaStreamCaptureModeThreadLocal),
              cudaSuccess);
    for (int i = 0; i < 3; ++i) {
      ASSERT_EQ(LaunchPeerSum(group.stream(rank), {.group = group.Group(rank),
                                                   .data = arrays.at(rank),
                                                   .count = static_cast<int64_t>(kCount)}),
                cudaSuccess);
    }
    ASSERT_EQ(cudaStreamEndCapture(group.stream(rank), &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&graphs[rank], graph), cudaSuccess);
    cudaGraphDestroy(graph);
  }
  for (int launch = 0; launch < 2; ++launch) {
    for (int rank = 0; rank < 2; ++rank) {
      cudaSetDevice(rank);
      ASSERT_EQ(cudaGraphLaunch(graphs[rank], group.stream(rank)), cudaSuccess);
    }
  }
  ASSERT_EQ(group.Wait(), "");
  std::vector<uint32_t> expected = first.sums;
  for (uint32_t& bits : expected) {
    for (int i = 0; i < 5; ++i) bits = std::bit_cast<uint32_t>(2 * std::bit_cast<float>(bits));
  }
  arrays.Expect(expected);
  for (cudaGraphExec_t graph : graphs) cudaGraphExecDestroy(graph);
}

// The other rank never comes: asking does not block, and the host's word ends the wait.
TEST_F(PeerSum, TheHostEndsAWaitInVain) {
  SetSeed(6);
  PeerRanks group(2);
  const Case<uint32_t> sums(2, 16, 6);
  const Arrays<uint32_t> arrays(sums.inputs, 0);
  ASSERT_EQ(
      LaunchPeerSum(group.stream(0), {.group = group.Group(0), .data = arrays.at(0), .count = 16}),
      cudaSuccess);
  const auto begin = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(50)) {
    ASSERT_EQ(cudaStreamQuery(group.stream(0)), cudaErrorNotReady);
  }
  group.Stop();
  EXPECT_EQ(group.Wait(), "");
}

TEST_F(PeerSum, AWaitThatNobodyEndsIsADeadlock) {
  emulation::Options options;
  options.patience_milliseconds = 30;
  emulation::SetOptions(options);
  PeerRanks group(2);
  const Case<uint32_t> sums(2, 16, 6);
  const Arrays<uint32_t> arrays(sums.inputs, 0);
  ASSERT_EQ(
      LaunchPeerSum(group.stream(0), {.group = group.Group(0), .data = arrays.at(0), .count = 16}),
      cudaSuccess);
  EXPECT_THAT(group.Wait(), HasSubstr("deadlock"));
}

TEST_F(PeerSum, BlocksThatWaitForPeersMustFitTheGpu) {
  PeerRanks group(2);
  GpuArray<float> data(std::vector<float>(5 * kPeerBlockElements));  // of 4 multiprocessors
  EXPECT_EQ(
      LaunchPeerSum(group.stream(0),
                    {.group = group.Group(0), .data = data.get(), .count = 5 * kPeerBlockElements}),
      cudaErrorInvalidConfiguration);
  EXPECT_THAT(cudaGetErrorString(cudaGetLastError()), HasSubstr("multiprocessors"));
}

// Five sums in a row without a wait in between; what was found, or "different bits".
std::string Misfortune(Launcher* launcher, uint64_t seed) {
  constexpr size_t kCount = 200;
  PeerRanks group(3);
  std::vector<Case<uint32_t>> cases;
  std::vector<std::unique_ptr<Arrays<uint32_t>>> arrays;
  for (uint64_t i = 0; i < 5; ++i) {
    cases.emplace_back(3, kCount, seed * 10 + i);
    arrays.push_back(std::make_unique<Arrays<uint32_t>>(cases.back().inputs, 0));
    Launch(launcher, group, *arrays.back(), kCount);
  }
  const std::string report = group.Wait();
  if (!report.empty()) return report;
  for (size_t i = 0; i < cases.size(); ++i) {
    std::vector<uint32_t> sums(kCount);
    cudaMemcpy(sums.data(), arrays[i]->at(1), kCount * sizeof(uint32_t), cudaMemcpyDeviceToHost);
    if (sums != cases[i].sums) return "different bits";
  }
  return "";
}

TEST_F(PeerSum, BugsAreFound) {
  const struct {
    Launcher* launcher;
    const char* expects;
  } bugs[] = {
      {peer_sum_no_release::LaunchPeerSum, "race on global memory"},
      {peer_sum_no_acquire::LaunchPeerSum, "race on global memory"},
      {peer_sum_one_buffer::LaunchPeerSum, "race on global memory"},
      {peer_sum_sent_too_early::LaunchPeerSum, "race on global memory"},
      {peer_sum_descending::LaunchPeerSum, "different bits"},
  };
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SetSeed(seed);
    EXPECT_EQ(Misfortune(&LaunchPeerSum, seed), "") << "seed " << seed;
    for (size_t bug = 0; bug < std::size(bugs); ++bug) {
      EXPECT_THAT(Misfortune(bugs[bug].launcher, seed), HasSubstr(bugs[bug].expects))
          << "bug " << bug << ", seed " << seed;
    }
  }
}

}  // namespace
}  // namespace tessera::cuda
