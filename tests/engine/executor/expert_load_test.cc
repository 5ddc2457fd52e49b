// What ranks report about their steps: who computed how much, and what the router chose.
#include <numeric>
#include <string>
#include <vector>

#include "engine/executor/local_executor.h"
#include "engine/executor/sequence_runner.h"
#include "engine/model/expert_rebalancer.h"
#include "engine/model/model_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/executor/observed_executor.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr int32_t kBlockSize = 16;

struct Observed {
  int64_t tokens = 0;
  std::vector<int64_t> rank_rows;                         // expert rows of each rank, all steps
  std::vector<std::shared_ptr<const ExpertLoads>> loads;  // one per exchange
  bool times_are_consistent = true;

  void Add(const StepResult& result) {
    rank_rows.resize(result.ranks.size());
    for (size_t r = 0; r < result.ranks.size(); ++r) {
      const RankReport& report = result.ranks[r];
      EXPECT_EQ(report.rank, static_cast<int32_t>(r));
      rank_rows[r] += report.expert_rows;
      const double waiting =
          std::accumulate(report.collective_seconds.begin(), report.collective_seconds.end(), 0.0);
      if (report.step_seconds <= 0 || waiting > report.step_seconds * 1.001)
        times_are_consistent = false;
      if (result.ranks.size() > 1 && waiting <= 0) times_are_consistent = false;
    }
    if (result.expert_loads != nullptr) loads.push_back(result.expert_loads);
  }
};

// Steps as many as would exchange. None does.
void RunTrial(Executor& executor) {
  ASSERT_TRUE(executor.AllocateTrialKv(16).ok());
  SequenceRunner runner(executor, kBlockSize);
  for (int32_t step = 0; step < ExpertRebalancer::Options().interval + 3; ++step) {
    ASSERT_TRUE(runner.Append({.token_ids = {step}}).ok());
  }
}

// A golden prompt and then token after token, past two exchanges.
Observed Decode(const std::string& model, const std::string& backend, const LayoutOptions& layout,
                bool after_trial = false) {
  Observed observed;
  const std::string dir = ReferenceModelDir(model);
  const auto config = LoadModelConfig(dir);
  EXPECT_TRUE(config.ok()) << config.status();
  ModelOptions options{.model_dir = dir, .backend = backend, .dtype = DType::kF32};
  options.num_threads = 1;
  options.layout = layout;
  auto created = CreateLocalExecutor(
      options, {.block_size = kBlockSize, .max_num_batched_tokens = 256, .max_model_len = 256},
      *config, nullptr);
  EXPECT_TRUE(created.ok()) << created.status();
  if (after_trial) RunTrial(**created);
  ObservedExecutor executor(*std::move(created),
                            [&](const StepResult& result) { observed.Add(result); });
  EXPECT_TRUE(executor.AllocateKv(16).ok());
  SequenceRunner runner(executor, kBlockSize);
  std::vector<int32_t> next = LoadModelGoldens(model).back().ids;
  for (int32_t step = 0; step < 2 * ExpertRebalancer::Options().interval; ++step) {
    const auto result = runner.Append({.token_ids = next});
    EXPECT_TRUE(result.ok()) << result.status();
    next = {result->token[0]};
  }
  observed.tokens = runner.length();
  return observed;
}

// Every token's choices are counted once, wherever it is computed: the counts of all layouts are
// those of a single rank.
TEST(ExpertLoadTest, ChoicesAreCountedOnceInEveryLayout) {
  for (const std::string model : {"moe", "moe-mlp-only"}) {
    const auto config = LoadModelConfig(ReferenceModelDir(model));
    const Observed alone = Decode(model, "ref", {1, 1, false, "auto"});
    ASSERT_EQ(alone.loads.size(), 2U);
    for (size_t i = 0; i < config->layer_is_moe.size(); ++i) {
      const LayerLoad& layer = alone.loads[1]->layers[i];
      EXPECT_EQ(std::accumulate(layer.choices.begin(), layer.choices.end(), int64_t{0}),
                config->layer_is_moe[i] ? alone.tokens * config->num_experts_per_tok : 0);
      EXPECT_EQ(layer.max_over_mean, config->layer_is_moe[i] ? 1 : 0);
    }
    const LayoutOptions layouts[] = {{2, 1, false, "allreduce"}, {2, 1, true, "allreduce"},
                                     {1, 2, false, "allreduce"}, {2, 2, true, "allreduce"},
                                     {2, 2, true, "alltoall"},   {1, 4, true, "alltoall"}};
    for (const LayoutOptions& layout : layouts) {
      SCOPED_TRACE(testing::Message() << model << " tp" << layout.tensor_parallel << " dp"
                                      << layout.data_parallel << layout.moe_comm);
      const Observed observed = Decode(model, "ref", layout);
      EXPECT_TRUE(observed.times_are_consistent);
      ASSERT_EQ(observed.loads.size(), alone.loads.size());
      for (size_t e = 0; e < observed.loads.size(); ++e) {
        for (size_t i = 0; i < config->layer_is_moe.size(); ++i) {
          EXPECT_EQ(observed.loads[e]->layers[i].choices, alone.loads[e]->layers[i].choices);
        }
      }
    }
  }
}

// The rows of all ranks together are the choices; with slices of every expert, each rank computes
// all of them.
TEST(ExpertLoadTest, RanksReportTheRowsTheyCompute) {
  const auto config = LoadModelConfig(ReferenceModelDir("moe"));
  const auto moe_layers =
      std::count(config->layer_is_moe.begin(), config->layer_is_moe.end(), true);
  const auto choices = [&](const Observed& observed) {
    return observed.tokens * config->num_experts_per_tok * moe_layers;
  };
  for (const std::string backend : {"ref", "cpu", "queued"}) {
    SCOPED_TRACE(backend);
    for (const char* mode : {"allreduce", "alltoall"}) {
      const Observed spread = Decode("moe", backend, {2, 2, true, mode});
      EXPECT_EQ(std::accumulate(spread.rank_rows.begin(), spread.rank_rows.end(), int64_t{0}),
                choices(spread));
      // Few experts per token on four ranks: somebody has more than the mean.
      EXPECT_GT(spread.loads.back()->layers[0].max_over_mean, 1);
      EXPECT_LE(spread.loads.back()->layers[0].max_over_mean, 4);
    }
    const Observed sliced = Decode("moe", backend, {2, 1, false, "allreduce"});
    for (int64_t rows : sliced.rank_rows) EXPECT_EQ(rows, choices(sliced));
    EXPECT_EQ(sliced.loads.back()->layers[0].max_over_mean, 1);
  }
}

// Steps that only find out what steps take are no load that experts should move for.
TEST(ExpertLoadTest, TrialsAreNotCounted) {
  for (const std::string backend : {"ref", "queued"}) {
    const LayoutOptions layout = {2, 1, true, "alltoall"};
    const Observed expected = Decode("moe", backend, layout);
    const Observed observed = Decode("moe", backend, layout, /*after_trial=*/true);
    EXPECT_EQ(observed.rank_rows, expected.rank_rows);
    ASSERT_EQ(observed.loads.size(), expected.loads.size());
    for (size_t e = 0; e < observed.loads.size(); ++e) {
      for (size_t i = 0; i < observed.loads[e]->layers.size(); ++i) {
        EXPECT_EQ(observed.loads[e]->layers[i].choices, expected.loads[e]->layers[i].choices);
        EXPECT_EQ(observed.loads[e]->layers[i].max_over_mean,
                  expected.loads[e]->layers[i].max_over_mean);
      }
    }
  }
}

TEST(ExpertLoadTest, DenseModelsReportTimesOnly) {
  const Observed observed = Decode("dense", "cpu", {2, 1, false, "auto"});
  EXPECT_TRUE(observed.loads.empty());
  EXPECT_TRUE(observed.times_are_consistent);
  EXPECT_THAT(observed.rank_rows, testing::ElementsAre(0, 0));
}

}  // namespace
}  // namespace tessera
