// Experts that move between ranks while the model serves: the busiest rank is relieved, nobody sees
// another token, and no step waits for more than one matrix.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/executor/local_executor.h"
#include "engine/model/model_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/skewed_moe.h"

namespace tessera {
namespace {

constexpr int32_t kInterval = 2 * SteadyWorkload::kStepsPerRound;
constexpr int32_t kStillSteps = 4 * kInterval;
// Moves take as many steps as their threads need; a machine that never finds time for them fails.
constexpr int32_t kMostSteps = 50'000;
constexpr SkewedMoeShape kShape;

std::string SkewedModel() {
  static const std::string* const kFolder = [] {
    auto* folder = new std::string(testing::TempDir() + "/rebalance_test_model");
    std::filesystem::remove_all(*folder);
    const absl::Status status = WriteSkewedMoe(kShape, *folder);
    EXPECT_TRUE(status.ok()) << status;
    return folder;
  }();
  return *kFolder;
}

absl::StatusOr<std::unique_ptr<Executor>> MakeExecutor(const LayoutOptions& layout,
                                                       const std::string& backend) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(SkewedModel());
  EXPECT_TRUE(config.ok()) << config.status();
  ModelOptions options{.model_dir = SkewedModel(), .backend = backend, .dtype = DType::kF32};
  options.num_threads = 1;
  options.layout = layout;
  auto executor = CreateLocalExecutor(options,
                                      {.block_size = SteadyWorkload::kBlockSize,
                                       .max_num_batched_tokens = 128,
                                       .max_model_len = 256},
                                      *config, nullptr);
  if (executor.ok()) {
    EXPECT_TRUE((*executor)->AllocateKv(SteadyWorkload::kNumBlocks).ok());
  }
  return executor;
}

struct Served {
  std::vector<std::vector<int32_t>> tokens;      // [step][group]
  std::vector<std::vector<float>> round_logits;  // distinct ones of a round's first step, group 0
  std::vector<float> worst_ratios;               // of each interval, over the layers
  ExpertMoves moves;
  int64_t moved_bytes = 0;
  int64_t most_moved_in_a_step = 0;  // by one rank
};

void Add(const StepResult& result, Served* run) {
  for (const RankReport& report : result.ranks) {
    run->moved_bytes += report.moved_bytes;
    run->most_moved_in_a_step = std::max(run->most_moved_in_a_step, report.moved_bytes);
  }
  if (result.expert_loads == nullptr) return;
  run->moves = result.expert_loads->moves;
  float worst = 0;
  for (const LayerLoad& layer : result.expert_loads->layers) {
    worst = std::max(worst, layer.max_over_mean);
  }
  run->worst_ratios.push_back(worst);
}

using Enough = std::function<bool(const Served&)>;

Served Serve(const LayoutOptions& layout, int32_t first_group, const Enough& enough,
             const std::string& backend = "cpu") {
  Served run;
  const auto executor = MakeExecutor(layout, backend);
  EXPECT_TRUE(executor.ok()) << executor.status();
  if (!executor.ok()) return run;
  SteadyWorkload workload(first_group, layout.data_parallel);
  for (int32_t step = 0; step < kMostSteps && !enough(run); ++step) {
    (*executor)->Submit(workload.Next());
    const auto result = (*executor)->Wait();
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return run;
    run.tokens.push_back(workload.Take(*result));
    const std::vector<float>& logits = result->groups[0].logits;
    if (step % SteadyWorkload::kStepsPerRound == 0 &&
        std::find(run.round_logits.begin(), run.round_logits.end(), logits) ==
            run.round_logits.end()) {
      run.round_logits.push_back(logits);
    }
    Add(*result, &run);
  }
  return run;
}

Served ServeStill(const LayoutOptions& layout, int32_t first_group) {
  return Serve(layout, first_group,
               [](const Served& run) { return run.tokens.size() == size_t{kStillSteps}; });
}

// Every round of `run` drew what the first round of `expected` drew.
void ExpectTokens(const Served& run, int32_t group, const Served& expected,
                  int32_t expected_group) {
  for (size_t step = 0; step < run.tokens.size(); ++step) {
    ASSERT_EQ(run.tokens[step][group],
              expected.tokens[step % SteadyWorkload::kStepsPerRound][expected_group])
        << "group " << group << " step " << step;
  }
}

LayoutOptions Moving(LayoutOptions layout) {
  layout.expert_rebalance_interval = kInterval;
  return layout;
}

class RebalanceTest : public testing::TestWithParam<LayoutOptions> {};

TEST_P(RebalanceTest, RelievesTheBusiestRankAndChangesNoToken) {
  const LayoutOptions layout = GetParam();
  const Served still = ServeStill(layout, 0);
  const Served moved = Serve(Moving(layout), 0, [](const Served& run) {
    return run.moves.completed >= kShape.layers && run.worst_ratios.back() < 1.15F;
  });
  for (int32_t g = 0; g < layout.data_parallel; ++g) {
    ExpectTokens(moved, g, still, g);
    ExpectTokens(moved, g, ServeStill({1, 1, false, "auto"}, g), 0);
  }

  EXPECT_EQ(still.moves.flips, 0);
  EXPECT_EQ(still.moved_bytes, 0);
  EXPECT_GE(moved.moves.completed, kShape.layers);
  EXPECT_GE(moved.moves.flips, moved.moves.completed);
  EXPECT_EQ(moved.moves.failed + moved.moves.timed_out, 0);

  EXPECT_GT(moved.worst_ratios.front(), 1.5);
  EXPECT_LT(moved.worst_ratios.back(), 1.15);
  EXPECT_GT(*std::min_element(still.worst_ratios.begin(), still.worst_ratios.end()), 1.5);

  // One matrix between two steps. The larger one is gate and up, bfloat16 as stored.
  EXPECT_GT(moved.moved_bytes, 0);
  EXPECT_LE(moved.most_moved_in_a_step, 2 * kShape.expert_width * kShape.hidden * 2);

  // All-to-all adds a token's experts in the order of its choices wherever they lie; all-reduce
  // adds rank by rank.
  EXPECT_EQ(still.round_logits.size(), 1U);
  if (layout.moe_comm == "alltoall") {
    EXPECT_EQ(moved.round_logits, still.round_logits);
  }
}

INSTANTIATE_TEST_SUITE_P(All, RebalanceTest,
                         testing::Values(LayoutOptions{2, 2, true, "alltoall"},
                                         LayoutOptions{1, 4, true, "alltoall"},
                                         LayoutOptions{2, 2, true, "allreduce"},
                                         LayoutOptions{1, 4, true, "allreduce"},
                                         LayoutOptions{4, 1, true, "allreduce"}),
                         [](const auto& tested) {
                           const LayoutOptions& layout = tested.param;
                           return absl::StrCat("tp", layout.tensor_parallel, "_dp",
                                               layout.data_parallel, "_", layout.moe_comm);
                         });

// One spare slot is enough to move experts, though not to copy them; the queued backend shows that
// nothing is replaced under work that still runs.
TEST(RebalanceBackendTest, OneSpareSlotOnEveryBackend) {
  LayoutOptions layout = Moving({2, 2, true, "auto"});
  layout.expert_spare_slots = 1;
  const Served expected = ServeStill({1, 1, false, "auto"}, 0);
  for (const std::string backend : {"ref", "queued"}) {
    SCOPED_TRACE(backend);
    const Served run = Serve(
        layout, 0,
        [](const Served& served) {
          return served.moves.completed >= 1 &&
                 served.worst_ratios.back() < served.worst_ratios.front();
        },
        backend);
    ExpectTokens(run, 0, expected, 0);
    EXPECT_GE(run.moves.completed, 1);
    EXPECT_LT(run.worst_ratios.back(), run.worst_ratios.front());
  }
}

TEST(RebalanceOptionsTest, RefusedWhereNothingCanMove) {
  const auto message = [](LayoutOptions layout) {
    return std::string(MakeExecutor(layout, "cpu").status().message());
  };
  EXPECT_THAT(message(Moving({2, 1, false, "auto"})),
              testing::HasSubstr("--expert-rebalance-interval needs whole experts"));
  EXPECT_THAT(message(Moving({1, 1, true, "auto"})), testing::HasSubstr("several ranks"));
  LayoutOptions layout = Moving({2, 1, true, "auto"});
  layout.expert_spare_slots = 9;
  EXPECT_THAT(message(layout), testing::HasSubstr("it can be 1 to 8"));
  layout.expert_spare_slots = 8;
  const auto executor = MakeExecutor(layout, "cpu");
  ASSERT_TRUE(executor.ok()) << executor.status();
  const GroupFacts facts = (*executor)->facts();
  EXPECT_EQ(facts.spare_expert_slots, 8);
  const int64_t expert_bytes = 3 * kShape.expert_width * kShape.hidden * 2;
  EXPECT_EQ(facts.spare_expert_bytes, 8 * kShape.layers * expert_bytes);
}

}  // namespace
}  // namespace tessera
