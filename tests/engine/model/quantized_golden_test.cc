// Quantised checkpoints of every format against logits that independent dequantisers computed, on
// every linked backend and on layouts of several ranks.
#include <algorithm>
#include <memory>
#include <string>
#include <tuple>

#include "engine/executor/local_executor.h"
#include "engine/executor/sequence_runner.h"
#include "engine/model/model_config.h"
#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "tests/engine/executor/greedy.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr int32_t kBlockSize = 16;
constexpr int32_t kMaxTokens = 256;

absl::StatusOr<std::unique_ptr<Executor>> MakeExecutor(const std::string& dir,
                                                       const std::string& backend,
                                                       const LayoutOptions& layout) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(dir);
  EXPECT_TRUE(config.ok()) << config.status();
  ModelOptions options;
  options.model_dir = dir;
  options.backend = backend;
  options.dtype = DType::kF32;
  options.num_threads = 2;
  options.layout = layout;
  auto executor = CreateLocalExecutor(
      options,
      {.block_size = kBlockSize, .max_num_batched_tokens = kMaxTokens, .max_model_len = kMaxTokens},
      *config, nullptr);
  if (executor.ok()) {
    EXPECT_TRUE((*executor)->AllocateKv(32).ok());
  }
  return executor;
}

// Emulated GPUs take some thousand times as long as a CPU.
bool IsEmulated(const std::string& backend) { return backend == "cuda-emulated"; }

std::vector<std::tuple<std::string, std::string>> ModelsOfBackends() {
  std::vector<std::tuple<std::string, std::string>> cases;
  for (const std::string_view linked : LinkedBackends()) {
    const std::string backend(linked);
    for (const std::string& model : QuantizedModels()) {
      if (!IsEmulated(backend) || model == "awq-moe") cases.emplace_back(model, backend);
    }
  }
  return cases;
}

std::string TestName(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class QuantizedModelTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(QuantizedModelTest, Float32EqualsExactDequantisation) {
  const auto& [name, backend] = GetParam();
  const auto executor = MakeExecutor(QuantizedModelDir(name), backend, {});
  ASSERT_TRUE(executor.ok()) << executor.status();
  std::vector<ModelGolden> goldens = LoadQuantizedGoldens(name);
  if (IsEmulated(backend)) {
    goldens.resize(1);
    goldens[0].greedy.resize(2);
  }
  for (const ModelGolden& golden : goldens) {
    const auto score = ScoreTokens(**executor, kBlockSize, kMaxTokens, golden.ids);
    ASSERT_TRUE(score.ok()) << score.status();
    EXPECT_EQ(score->argmax, golden.argmax);
    EXPECT_NEAR(score->nll, golden.nll, 1e-5);
    ASSERT_EQ(score->last_logits.size(), golden.last_logits.size());
    for (size_t i = 0; i < golden.last_logits.size(); ++i) {
      ASSERT_NEAR(score->last_logits[i], golden.last_logits[i], 1e-4) << "logit " << i;
    }
    EXPECT_EQ(Greedy(**executor, kBlockSize, golden.ids, golden.greedy.size()), golden.greedy);
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedModelTest, testing::ValuesIn(ModelsOfBackends()),
                         [](const auto& param_info) {
                           return TestName(std::get<0>(param_info.param) + "_" +
                                           std::get<1>(param_info.param));
                         });

class QuantizedLayoutTest : public testing::TestWithParam<LayoutOptions> {};

// Ranks cut words, groups and blocks: widths of 136 and 192 in quarters, a KV head on two ranks.
TEST_P(QuantizedLayoutTest, RanksTogetherComputeWhatOneDoes) {
  int split = 0;
  for (const std::string& name : QuantizedModels()) {
    const auto executor = MakeExecutor(QuantizedModelDir(name), "cpu", GetParam());
    if (executor.status().code() == absl::StatusCode::kInvalidArgument) continue;  // does not split
    ASSERT_TRUE(executor.ok()) << name << ": " << executor.status();
    ++split;
    const ModelGolden golden = LoadQuantizedGoldens(name).back();
    const auto score = ScoreTokens(**executor, kBlockSize, kMaxTokens, golden.ids);
    ASSERT_TRUE(score.ok()) << score.status();
    for (size_t i = 0; i < golden.last_logits.size(); ++i) {
      ASSERT_NEAR(score->last_logits[i], golden.last_logits[i], 1e-4) << name << " logit " << i;
    }
    EXPECT_EQ(Greedy(**executor, kBlockSize, golden.ids, golden.greedy.size()), golden.greedy)
        << name;
  }
  EXPECT_GE(split, GetParam().expert_parallel ? 4 : 15);
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedLayoutTest,
                         testing::Values(LayoutOptions{2, 1, false, "allreduce"},
                                         LayoutOptions{4, 1, false, "allreduce"},
                                         LayoutOptions{1, 2, false, "allreduce"},
                                         LayoutOptions{2, 1, true, "alltoall"},
                                         LayoutOptions{2, 2, true, "allreduce"}),
                         [](const auto& param_info) {
                           return "tp" + std::to_string(param_info.param.tensor_parallel) + "_dp" +
                                  std::to_string(param_info.param.data_parallel) +
                                  (param_info.param.expert_parallel ? "_ep" : "");
                         });

}  // namespace
}  // namespace tessera
