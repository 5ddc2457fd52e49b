// How often a step goes to the device and back: once each, on every layout. Steps that exchange
// expert loads or move experts are steps of their own kind, and say what they add.
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/executor/rank_connector.h"
#include "engine/executor/rank_worker.h"
#include "engine/model/quiet_work.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "kernels/queued/queued_device.h"
#include "parallel/topology.h"
#include "tests/support/skewed_moe.h"

namespace tessera {
namespace {

constexpr int32_t kInterval = 2 * SteadyWorkload::kStepsPerRound;
constexpr int32_t kMostSteps = 50'000;

std::string SkewedModel() {
  static const std::string* const kFolder = [] {
    auto* folder = new std::string(testing::TempDir() + "/step_transfers_test_model");
    std::filesystem::remove_all(*folder);
    const absl::Status status = WriteSkewedMoe({}, *folder);
    EXPECT_TRUE(status.ok()) << status;
    return folder;
  }();
  return *kFolder;
}

struct Layout {
  LayoutRequest ranks;
  MoeComm moe_comm = MoeComm::kAllReduce;
  int32_t spare_slots = 0;  // experts move when there are some
};

struct Transfers {
  int64_t uploads = 0;
  int64_t downloads = 0;
  bool operator==(const Transfers&) const = default;
};
void PrintTo(const Transfers& transfers, std::ostream* out) {
  *out << transfers.uploads << " uploads, " << transfers.downloads << " downloads";
}

// Ranks on queued devices. One thread drives them all: they wait for each other in their queues.
class QueuedRanks {
 public:
  explicit QueuedRanks(const Layout& layout) : connector_({.moe_comm = layout.moe_comm}) {
    const auto config = LoadModelConfig(SkewedModel());
    const std::shared_ptr<Checkpoint> checkpoint = *Checkpoint::Open(SkewedModel());
    const auto quiet = std::make_shared<QuietWork>();
    const int ranks = layout.ranks.tensor_parallel * layout.ranks.data_parallel;
    for (int rank = 0; rank < ranks; ++rank) {
      const Topology topology = *Topology::Create(layout.ranks, rank);
      auto ops = *CreateOps({.backend = "queued"});
      devices_.push_back(dynamic_cast<QueuedDevice*>(&ops->device()));
      auto worker = RankWorker::Create(
          *config, MakeShard(*config, topology, layout.spare_slots),
          {.dtype = DType::kF32,
           .block_size = SteadyWorkload::kBlockSize,
           .max_tokens = 128,
           .max_positions = 256,
           .rebalance_interval = layout.spare_slots > 0 ? kInterval : 0,
           .preparation = quiet},
          checkpoint,
          [&](Device* device) {
            return connector_.Connect({.topology = topology, .device = device});
          },
          std::move(ops), nullptr);
      TESSERA_CHECK(worker.ok());
      TESSERA_CHECK((*worker)->AllocateKv(SteadyWorkload::kNumBlocks).ok());
      workers_.push_back(*std::move(worker));
      draws_.push_back(topology.tp_rank() == 0);
    }
    Take();
  }

  // Of each rank since the last call.
  std::vector<Transfers> Take() {
    std::vector<Transfers> taken;
    before_.resize(devices_.size());
    for (size_t rank = 0; rank < devices_.size(); ++rank) {
      const QueuedDevice::Transfers now = devices_[rank]->transfers();
      const Transfers then = std::exchange(before_[rank], {now.uploads, now.downloads});
      taken.push_back({now.uploads - then.uploads, now.downloads - then.downloads});
    }
    return taken;
  }

  StepResult Step(const StepPlan& plan) {
    StepResult result;
    for (const auto& worker : workers_) EXPECT_TRUE(worker->Begin(plan).ok());
    for (size_t rank = 0; rank < workers_.size(); ++rank) {
      auto finished = workers_[rank]->Finish(absl::Minutes(1));
      TESSERA_CHECK(finished.ok());
      if (draws_[rank]) result.groups.push_back(std::move(finished->batch));
      if (rank == 0) result.expert_loads = finished->expert_loads;
    }
    return result;
  }
  void BetweenSteps() {
    for (const auto& worker : workers_) EXPECT_TRUE(worker->BetweenSteps().ok());
  }

 private:
  RankConnector connector_;
  std::vector<QueuedDevice*> devices_;
  std::vector<std::unique_ptr<RankWorker>> workers_;
  std::vector<bool> draws_;  // first of its group
  std::vector<Transfers> before_;
};

StepPlan NextPlan(SteadyWorkload* workload) {
  StepPlan plan = workload->Next();
  plan.return_logits = false;
  return plan;
}

class StepTransfersTest : public testing::TestWithParam<Layout> {};

TEST_P(StepTransfersTest, AStepIsOneUploadAndOneRead) {
  const Layout& layout = GetParam();
  QueuedRanks ranks(layout);
  SteadyWorkload workload(0, layout.ranks.data_parallel);
  const std::vector<Transfers> one_each(
      size_t(layout.ranks.tensor_parallel) * layout.ranks.data_parallel, {1, 1});
  for (int step = 0; step < 2 * SteadyWorkload::kStepsPerRound; ++step) {
    // A prompt, then single tokens: ranks without a row of their own route nothing but padding.
    workload.Take(ranks.Step(NextPlan(&workload)));
    EXPECT_EQ(ranks.Take(), one_each) << "step " << step;
    ranks.BetweenSteps();
    EXPECT_EQ(ranks.Take(), std::vector<Transfers>(one_each.size())) << "behind step " << step;
  }
}

std::string NameOf(const testing::TestParamInfo<Layout>& tested) {
  const Layout& layout = tested.param;
  return absl::StrCat("tp", layout.ranks.tensor_parallel, "_dp", layout.ranks.data_parallel,
                      layout.ranks.expert_parallel ? "_ep" : "",
                      layout.moe_comm == MoeComm::kAllToAll ? "_alltoall" : "_allreduce");
}

INSTANTIATE_TEST_SUITE_P(All, StepTransfersTest,
                         testing::Values(Layout{{1, 1, false}}, Layout{{2, 1, false}},
                                         Layout{{4, 1, true}}, Layout{{1, 2, false}},
                                         Layout{{2, 2, true}}, Layout{{1, 4, true}},
                                         Layout{{4, 1, true}, MoeComm::kAllToAll},
                                         Layout{{2, 2, true}, MoeComm::kAllToAll},
                                         Layout{{1, 4, true}, MoeComm::kAllToAll}),
                         NameOf);

class MovingTransfersTest : public testing::TestWithParam<Layout> {};

// An exchange of loads is one read more, and so is a step while experts move, whose word goes up
// first. Between steps a flip uploads the new placement; matrices are patched in without a transfer
// that a step would wait for.
TEST_P(MovingTransfersTest, ExchangesAndMovesSayWhatTheyAdd) {
  const Layout& layout = GetParam();
  QueuedRanks ranks(layout);
  SteadyWorkload workload(0, layout.ranks.data_parallel);
  const size_t count = size_t(layout.ranks.tensor_parallel) * layout.ranks.data_parallel;
  ExpertMoves moves;
  int64_t flips_seen = 0;
  int64_t moving_steps = 0;
  for (int32_t step = 1; step <= kMostSteps; ++step) {
    const StepResult result = ranks.Step(NextPlan(&workload));
    workload.Take(result);
    const bool exchanges = step % kInterval == 0;
    EXPECT_EQ(result.expert_loads != nullptr, exchanges);
    const std::vector<Transfers> taken = ranks.Take();
    const bool moving = taken[0].uploads == 2;
    moving_steps += moving ? 1 : 0;
    const Transfers expected{1 + int64_t{moving}, 1 + int64_t{moving} + int64_t{exchanges}};
    ASSERT_EQ(taken, std::vector<Transfers>(count, expected)) << "step " << step;
    ASSERT_TRUE(!moving || step > kInterval) << "no exchange has said what to move";

    ranks.BetweenSteps();
    const std::vector<Transfers> between = ranks.Take();
    ASSERT_TRUE(between[0] == Transfers{} || between[0] == (Transfers{1, 0}));
    ASSERT_EQ(between, std::vector<Transfers>(count, between[0]));
    ASSERT_TRUE(moving || between[0] == Transfers{}) << "only a move flips placements";
    flips_seen += between[0].uploads;
    if (exchanges) moves = result.expert_loads->moves;
    if (exchanges && moves.completed >= 2) break;
  }
  EXPECT_GE(moves.completed, 2);
  EXPECT_GE(flips_seen, moves.flips);
  EXPECT_LE(flips_seen, moves.flips + 1);  // one behind the last exchange
  EXPECT_GE(moving_steps, flips_seen);
}

INSTANTIATE_TEST_SUITE_P(All, MovingTransfersTest,
                         testing::Values(Layout{{2, 2, true}, MoeComm::kAllReduce, 2},
                                         Layout{{1, 4, true}, MoeComm::kAllToAll, 2}),
                         NameOf);

}  // namespace
}  // namespace tessera
