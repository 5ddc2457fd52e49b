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

INSTANTIATE_TEST_SUITE_P(All, LayoutTest,
                         testing::Values(LayoutOptions{2, 1, false, "allreduce"},
                                         LayoutOptions{4, 1, false, "allreduce"},
                                         LayoutOptions{2, 1, true, "allreduce"},
                                         LayoutOptions{1, 2, false, "allreduce"},
                                         LayoutOptions{2, 2, true, "allreduce"},
                                         LayoutOptions{1, 8, true, "allreduce"}),
                         [](const auto& param_info) { return LayoutName(param_info.param); });

}  // namespace
}  // namespace tessera
