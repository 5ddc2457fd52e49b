// The same tokens on every layout of ranks.
#include <memory>
#include <string>

#include "engine/executor/local_executor.h"
#include "engine/executor/sequence_runner.h"
#include "engine/model/model_config.h"
#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr int32_t kBlockSize = 16;

absl::StatusOr<std::unique_ptr<Executor>> MakeExecutor(const std::string& dir,
                                                       const LayoutOptions& layout) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(dir);
  EXPECT_TRUE(config.ok()) << config.status();
  ModelOptions options;
  options.model_dir = dir;
  options.backend = "ref";
  options.dtype = DType::kF32;
  options.layout = layout;
  auto executor = CreateLocalExecutor(
      options, {.block_size = kBlockSize, .max_num_batched_tokens = 256, .max_model_len = 256},
      *config, nullptr);
  if (executor.ok()) {
    EXPECT_TRUE((*executor)->AllocateKv(16).ok());
  }
  return executor;
}

std::string LayoutName(const LayoutOptions& layout) {
  return "tp" + std::to_string(layout.tensor_parallel) + "_dp" +
         std::to_string(layout.data_parallel) + (layout.expert_parallel ? "_ep_" : "_") +
         layout.moe_comm;
}

class LayoutTest : public testing::TestWithParam<LayoutOptions> {};

TEST_P(LayoutTest, GreedyTokensEqualTransformers) {
  for (const std::string& name : ReferenceModels()) {
    const auto executor = MakeExecutor(ReferenceModelDir(name), GetParam());
    if (executor.status().code() == absl::StatusCode::kInvalidArgument) continue;  // does not split
    ASSERT_TRUE(executor.ok()) << executor.status();
    for (const ModelGolden& golden : LoadModelGoldens(name)) {
      SequenceRunner runner(**executor, kBlockSize);
      std::vector<int32_t> next = golden.ids;
      std::vector<int32_t> tokens;
      while (tokens.size() < golden.greedy.size()) {
        const auto result = runner.Append({.token_ids = next});
        ASSERT_TRUE(result.ok()) << result.status();
        next = {result->token[0]};
        tokens.push_back(result->token[0]);
      }
      EXPECT_EQ(tokens, golden.greedy) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, LayoutTest,
    testing::Values(LayoutOptions{2, 1, false, "allreduce"},
                    LayoutOptions{4, 1, false, "allreduce"}, LayoutOptions{2, 1, true, "alltoall"},
                    LayoutOptions{1, 2, false, "allreduce"}, LayoutOptions{2, 2, true, "allreduce"},
                    LayoutOptions{2, 2, true, "alltoall"}, LayoutOptions{1, 8, true, "alltoall"},
                    LayoutOptions{2, 2, true, "auto"}),
    [](const auto& param_info) { return LayoutName(param_info.param); });

// The table that --moe-comm=auto decides by exists where rows can travel both ways, and nowhere
// else.
TEST(MoeCommCostTest, AutoMeasuresWhenThereIsAChoice) {
  const std::string dir = ReferenceModelDir("moe");
  const auto measured = MakeExecutor(dir, {2, 2, true, "auto"});
  ASSERT_TRUE(measured.ok()) << measured.status();
  const GroupFacts facts = (*measured)->facts();
  EXPECT_EQ(facts.num_ranks, 4);
  ASSERT_EQ(facts.moe_comm_costs.size(), 3U);  // up to the 256 tokens of a step
  for (const MoeCommCost& cost : facts.moe_comm_costs) {
    EXPECT_GT(cost.all_reduce, 0);
    EXPECT_GT(cost.all_to_all, 0);
  }
  for (const LayoutOptions& layout :
       {LayoutOptions{2, 2, true, "alltoall"}, LayoutOptions{2, 2, false, "auto"}}) {
    const auto executor = MakeExecutor(dir, layout);
    ASSERT_TRUE(executor.ok()) << executor.status();
    EXPECT_TRUE((*executor)->facts().moe_comm_costs.empty());
  }
}

TEST(MoeCommCostTest, DecidesByTheNextLargerCount) {
  const std::vector<MoeCommCost> costs = {{1, 1, 2}, {8, 3, 2}, {64, 4, 5}};
  EXPECT_FALSE(PrefersAllToAll(costs, 1));
  EXPECT_TRUE(PrefersAllToAll(costs, 2));
  EXPECT_TRUE(PrefersAllToAll(costs, 8));
  EXPECT_FALSE(PrefersAllToAll(costs, 9));
  EXPECT_FALSE(PrefersAllToAll(costs, 1000));
}

TEST(MoeCommCostTest, RanksMustHaveTheSameTable) {
  const std::vector<MoeCommCost> same = {{1, 1, 2}, {8, 3, 2}, {1, 1, 2}, {8, 3, 2}};
  EXPECT_TRUE(CheckSameCosts(same, 2).ok());
  std::vector<MoeCommCost> other = same;
  other[3].all_to_all = 4;
  const absl::Status status = CheckSameCosts(other, 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(std::string(status.message()).find("rank 1"), std::string::npos) << status;
}

// With an exact combine the expert-parallel size cannot change a bit.
TEST(ExpertParallelTest, LogitsAreBitEqualForEverySize) {
  for (const std::string name : {"moe", "moe-128-top8", "moe-mlp-only"}) {
    const ModelGolden golden = LoadModelGoldens(name).back();
    std::vector<float> expected;
    for (int32_t ranks : {1, 2, 4, 8}) {
      const auto executor = MakeExecutor(ReferenceModelDir(name),
                                         {1, ranks, ranks > 1, ranks > 1 ? "alltoall" : "auto"});
      ASSERT_TRUE(executor.ok()) << executor.status();
      const auto score = ScoreTokens(**executor, kBlockSize, 256, golden.ids);
      ASSERT_TRUE(score.ok()) << score.status();
      if (expected.empty()) expected = score->last_logits;
      EXPECT_EQ(score->last_logits, expected) << name << " on " << ranks << " ranks";
    }
  }
}

// Steps of few rows stay whole on every rank, longer ones are divided (engine/model/row_share.h),
// in even parts or not, and in a step of one row some ranks have none.
TEST(DividedRowsTest, LogitsAreBitEqualWhateverTheStep) {
  for (const std::string name : {"dense", "moe", "moe-mlp-only"}) {
    const ModelGolden golden = LoadModelGoldens(name).back();
    for (const LayoutOptions& layout :
         {LayoutOptions{4, 1, false, "allreduce"}, LayoutOptions{4, 1, true, "allreduce"},
          LayoutOptions{2, 2, true, "alltoall"}, LayoutOptions{2, 2, true, "allreduce"}}) {
      if (layout.expert_parallel && name == "dense") continue;
      const auto executor = MakeExecutor(ReferenceModelDir(name), layout);
      ASSERT_TRUE(executor.ok()) << executor.status();
      std::vector<float> expected;
      for (const int32_t chunk : {1, 2, 7, 8, 13, 256}) {
        const auto score = ScoreTokens(**executor, kBlockSize, chunk, golden.ids);
        ASSERT_TRUE(score.ok()) << score.status();
        if (expected.empty()) expected = score->last_logits;
        EXPECT_EQ(score->last_logits, expected)
            << name << " " << LayoutName(layout) << " in chunks of " << chunk;
      }
    }
  }
}

TEST(LayoutErrorTest, NamesTheSizesThatWork) {
  const auto executor = MakeExecutor(ReferenceModelDir("moe"), {3, 1, false, "auto"});
  EXPECT_EQ(executor.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(executor.status().message()).find("2"), std::string::npos)
      << executor.status();
}

}  // namespace
}  // namespace tessera
