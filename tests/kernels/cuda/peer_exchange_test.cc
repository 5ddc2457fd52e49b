// Exchanges into the memory of peers: every row and nothing else, one after the other without
// waits, in graphs too; and bugs that must be found. Shapes: tests/parallel/nccl.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "tests/kernels/cuda/moved_bytes.h"
#include "tests/kernels/cuda/peer_ranks.h"

namespace tessera::cuda {

// The copies, see CMakeLists.txt.
#define TESSERA_PEER_EXCHANGE_COPY(name)                                                \
  namespace name {                                                                      \
  cudaError_t LaunchPeerExchange(cudaStream_t stream, const PeerExchangeLaunch& launch, \
                                 int blocks);                                           \
  }
TESSERA_PEER_EXCHANGE_COPY(peer_exchange_not_ready)
TESSERA_PEER_EXCHANGE_COPY(peer_exchange_no_release)
TESSERA_PEER_EXCHANGE_COPY(peer_exchange_sent_too_early)
TESSERA_PEER_EXCHANGE_COPY(peer_exchange_wrong_chunk)

namespace {

namespace emulation = simt::emulation;
using testing::HasSubstr;
using Launcher = cudaError_t(cudaStream_t stream, const PeerExchangeLaunch& launch, int blocks);

constexpr int kRanks = 3;
constexpr int kCapacity = 20;
constexpr int kWidth = 160;  // words of a row: a chunk is the work of two blocks
constexpr int kWords = kRanks * kCapacity * kWidth;
constexpr int kChunkWords = kCapacity * kWidth;

int32_t CountOf(int from, int to) { return (from * 7 + to * 5) % (kCapacity + 1); }

// Two arrays of rows and one of counts in each rank's memory. Exchanges go from the first to the
// second and back.
class Exchanges {
 public:
  explicit Exchanges(Launcher* launcher) : launcher_(launcher), ranks_(kRanks) {
    for (int rank = 0; rank < kRanks; ++rank) {
      cudaSetDevice(rank);
      std::vector<int32_t> words(2 * kWords + kRanks, -1);
      for (int i = 0; i < kWords; ++i) words[static_cast<size_t>(i)] = rank * 10000 + i;
      memory_.push_back(std::make_unique<GpuArray<int32_t>>(words));
      std::vector<int32_t> counts;
      for (int to = 0; to < kRanks; ++to) counts.push_back(CountOf(rank, to));
      counts_.push_back(std::make_unique<GpuArray<int32_t>>(counts));
      copies_.push_back(std::make_unique<GpuArray<int32_t>>(words.size()));
      faults_.push_back(std::make_unique<GpuArray<Fault>>(std::vector<Fault>(1)));
    }
    cudaSetDevice(0);
  }

  // Forth by counts, or back in whole chunks.
  void Launch(int rank, bool forth) {
    cudaSetDevice(rank);
    PeerExchangeLaunch launch{.group = ranks_.Group(rank),
                              .num_parts = 1,
                              .capacity = kCapacity,
                              .fault = faults_[static_cast<size_t>(rank)]->get()};
    for (int r = 0; r < kRanks; ++r) {
      launch.memory[r] = reinterpret_cast<char*>(memory_[static_cast<size_t>(r)]->get());
    }
    const int64_t half = int64_t{kWords} * 4;
    launch.parts[0] = {.in = launch.memory[rank] + (forth ? 0 : half),
                       .out = forth ? half : 0,
                       .row_bytes = kWidth * 4};
    if (forth) launch.send_counts = counts_[static_cast<size_t>(rank)]->get();
    launch.recv_counts = 2 * half;
    EXPECT_EQ(launcher_(ranks_.stream(rank), launch, PeerRanks::kBlocks), cudaSuccess);
    cudaSetDevice(0);
  }
  void LaunchAll(bool forth) {
    for (int rank = 0; rank < kRanks; ++rank) Launch(rank, forth);
  }
  // Reads what has come, before any host has waited for anything.
  void Copy() {
    for (int rank = 0; rank < kRanks; ++rank) {
      cudaSetDevice(rank);
      const auto r = static_cast<size_t>(rank);
      EXPECT_EQ(cudaMemcpyAsync(copies_[r]->get(), memory_[r]->get(), copies_[r]->size() * 4,
                                cudaMemcpyDeviceToDevice, ranks_.stream(rank)),
                cudaSuccess);
    }
    cudaSetDevice(0);
  }
  PeerRanks& ranks() { return ranks_; }

  // What is wrong with what exchanges forth have brought to a rank.
  std::string Differences(int rank) const {
    cudaSetDevice(rank);
    const std::vector<int32_t> words = copies_[static_cast<size_t>(rank)]->Values();
    cudaSetDevice(0);
    const int32_t* chunks = words.data() + kWords;
    const int32_t* counts = chunks + kWords;
    for (int from = 0; from < kRanks; ++from) {
      if (counts[from] != CountOf(from, rank)) return "counts";
      for (int i = 0; i < kChunkWords; ++i) {
        const bool sent = i / kWidth < CountOf(from, rank);
        const int32_t expected = sent ? from * 10000 + rank * kChunkWords + i : -1;
        if (chunks[from * kChunkWords + i] != expected) return "different rows";
      }
    }
    return "";
  }

 private:
  Launcher* launcher_;
  PeerRanks ranks_;
  std::vector<std::unique_ptr<GpuArray<int32_t>>> memory_, copies_, counts_;
  std::vector<std::unique_ptr<GpuArray<Fault>>> faults_;
};

// What was found, or what is different.
std::string Misfortune(Launcher* launcher) {
  Exchanges exchanges(launcher);
  exchanges.LaunchAll(true);
  exchanges.LaunchAll(false);
  exchanges.Copy();  // peers must not yet write again what it reads
  exchanges.LaunchAll(true);
  exchanges.Copy();
  const std::string report = exchanges.ranks().Wait();
  if (!report.empty()) return report;
  for (int rank = 0; rank < kRanks; ++rank) {
    std::string differences = exchanges.Differences(rank);
    if (!differences.empty()) return differences;
  }
  return "";
}

class PeerExchange : public testing::TestWithParam<uint64_t> {
 protected:
  PeerExchange() {
    emulation::Options options = emulation::OptionsFromEnvironment();
    options.seed = GetParam();
    emulation::SetOptions(options);
  }
  ~PeerExchange() override { emulation::SetOptions(emulation::OptionsFromEnvironment()); }
};
INSTANTIATE_TEST_SUITE_P(Seeds, PeerExchange, testing::Range(uint64_t{1}, uint64_t{6}));

TEST_P(PeerExchange, BringsEveryRowAndNothingElse) {
  EXPECT_EQ(Misfortune(&LaunchPeerExchange), "");
}

// A row is read here and written there, and nothing in between.
TEST_P(PeerExchange, MovesEveryRowOnce) {
  Exchanges exchanges(&LaunchPeerExchange);
  const uint64_t before = test::MovedBytes();
  exchanges.LaunchAll(false);
  EXPECT_EQ(exchanges.ranks().Wait(), "");
  const uint64_t moved = test::MovedBytes() - before;
  constexpr uint64_t kFewest = 2 * kRanks * kWords * sizeof(int32_t);
  EXPECT_GE(moved, kFewest) << "not everything is counted";
  EXPECT_LE(moved, kFewest + kFewest / 4);
}

TEST_P(PeerExchange, GraphsReplayExchanges) {
  Exchanges exchanges(&LaunchPeerExchange);
  cudaGraphExec_t graphs[kRanks];
  for (int rank = 0; rank < kRanks; ++rank) {
    const cudaStream_t stream = exchanges.ranks().stream(rank);
    cudaGraph_t graph;
    cudaSetDevice(rank);
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    exchanges.Launch(rank, true);
    exchanges.Launch(rank, false);
    cudaSetDevice(rank);
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&graphs[rank], graph), cudaSuccess);
    cudaGraphDestroy(graph);
  }
  for (int launch = 0; launch < 2; ++launch) {
    for (int rank = 0; rank < kRanks; ++rank) {
      cudaSetDevice(rank);
      ASSERT_EQ(cudaGraphLaunch(graphs[rank], exchanges.ranks().stream(rank)), cudaSuccess);
    }
  }
  exchanges.Copy();
  EXPECT_EQ(exchanges.ranks().Wait(), "");
  for (int rank = 0; rank < kRanks; ++rank) EXPECT_EQ(exchanges.Differences(rank), "");
  for (cudaGraphExec_t graph : graphs) cudaGraphExecDestroy(graph);
}

TEST_P(PeerExchange, BugsAreFound) {
  emulation::Options options = emulation::GetOptions();
  options.patience_milliseconds = 500;  // of ranks whose peer has failed
  emulation::SetOptions(options);
  EXPECT_THAT(Misfortune(peer_exchange_not_ready::LaunchPeerExchange),
              HasSubstr("not ordered after"));
  EXPECT_THAT(Misfortune(peer_exchange_no_release::LaunchPeerExchange),
              HasSubstr("not ordered after"));
  EXPECT_THAT(Misfortune(peer_exchange_sent_too_early::LaunchPeerExchange),
              HasSubstr("not ordered after"));
  EXPECT_NE(Misfortune(peer_exchange_wrong_chunk::LaunchPeerExchange), "");
}

}  // namespace
}  // namespace tessera::cuda
