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
                                                       const LayoutOptions& layout,
                                                       DType dtype = DType::kF32) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(dir);
  EXPECT_TRUE(config.ok()) << config.status();
  ModelOptions options;
  options.model_dir = dir;
  options.backend = "ref";
  options.dtype = dtype;
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

class InBothTypes : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, InBothTypes, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& tested) { return std::string(DTypeName(tested.param)); });

// With an exact combine the expert-parallel size cannot change a bit.
TEST_P(InBothTypes, LogitsAreBitEqualForEveryExpertParallelSize) {
  for (const std::string name : {"moe", "moe-128-top8", "moe-mlp-only"}) {
    const ModelGolden golden = LoadModelGoldens(name).back();
    std::vector<float> expected;
    for (int32_t ranks : {1, 2, 4, 8}) {
      const auto executor =
          MakeExecutor(ReferenceModelDir(name),
                       {1, ranks, ranks > 1, ranks > 1 ? "alltoall" : "auto"}, GetParam());
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
TEST_P(InBothTypes, LogitsAreBitEqualHoweverTheRowsAreDivided) {
  for (const std::string name : {"dense", "moe", "moe-mlp-only"}) {
    const ModelGolden golden = LoadModelGoldens(name).back();
    for (const LayoutOptions& layout :
         {LayoutOptions{4, 1, false, "allreduce"}, LayoutOptions{4, 1, true, "allreduce"},
          LayoutOptions{2, 2, true, "alltoall"}, LayoutOptions{2, 2, true, "allreduce"}}) {
      if (layout.expert_parallel && name == "dense") continue;
      const auto executor = MakeExecutor(ReferenceModelDir(name), layout, GetParam());
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
