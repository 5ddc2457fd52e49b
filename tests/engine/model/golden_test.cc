// The tiny reference checkpoints and the nano model against what transformers computes, on every
// linked backend.
#include <algorithm>
#include <cmath>
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

std::unique_ptr<Executor> MakeExecutor(const std::string& dir, const std::string& backend,
                                       DType dtype) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(dir);
  EXPECT_TRUE(config.ok()) << config.status();
  ModelOptions options;
  options.model_dir = dir;
  options.backend = backend;
  options.dtype = dtype;
  options.num_threads = 2;
  auto executor = CreateLocalExecutor(options,
                                      {.block_size = kBlockSize,
                                       .max_num_batched_tokens = 1024,
                                       // Some reference prompts go beyond their model's own limit.
                                       .max_model_len = 1024},
                                      *config, nullptr);
  EXPECT_TRUE(executor.ok()) << executor.status();
  EXPECT_TRUE((*executor)->AllocateKv(64).ok());
  return *std::move(executor);
}

// Emulated GPUs take some thousand times as long as a CPU. Of the models they run those that use
// kernels differently, of the prompts one, and of an answer the first tokens.
bool IsEmulated(const std::string& backend) { return backend == "cuda-emulated"; }
constexpr size_t kEmulatedTokens = 4;
constexpr size_t kEmulatedPrompt = 24;  // where nothing is compared with transformers

std::vector<std::string> ModelsFor(const std::string& backend) {
  std::vector<std::string> models = ReferenceModels();  // a bundle for GPUs has not all of them
  if (!IsEmulated(backend)) return models;
  std::erase_if(models, [](const std::string& name) {
    return name != "dense-bias" && name != "dense-sliding" && name != "moe-128-top8" &&
           name != "moe-sparse-step-2";
  });
  return models;
}

std::vector<ModelGolden> GoldensFor(const std::string& backend, const std::string& model) {
  std::vector<ModelGolden> goldens = LoadModelGoldens(model);
  if (!IsEmulated(backend)) return goldens;
  goldens[1].greedy.resize(kEmulatedTokens);
  return {goldens[1]};
}

std::vector<NanoGolden> NanoGoldensFor(const std::string& backend) {
  std::vector<NanoGolden> goldens = LoadNanoGoldens();
  if (!IsEmulated(backend)) return goldens;
  goldens[0].greedy.resize(kEmulatedTokens);
  return {goldens[0]};
}

std::vector<std::string> Backends() {
  std::vector<std::string> names;
  for (std::string_view name : LinkedBackends()) names.emplace_back(name);
  return names;
}

std::vector<std::tuple<std::string, std::string>> ModelsOfBackends() {
  std::vector<std::tuple<std::string, std::string>> cases;
  for (const std::string& backend : Backends()) {
    for (const std::string& model : ModelsFor(backend)) cases.emplace_back(model, backend);
  }
  return cases;
}

std::string TestName(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class ReferenceModelTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(ReferenceModelTest, Float32EqualsTransformers) {
  const auto& [name, backend] = GetParam();
  const auto executor = MakeExecutor(ReferenceModelDir(name), backend, DType::kF32);
  for (const ModelGolden& golden : GoldensFor(backend, name)) {
    const auto score = ScoreTokens(*executor, kBlockSize, 256, golden.ids);
    ASSERT_TRUE(score.ok()) << score.status();
    EXPECT_EQ(score->argmax, golden.argmax);
    EXPECT_NEAR(score->nll, golden.nll, 1e-5);
    ASSERT_EQ(score->last_logits.size(), golden.last_logits.size());
    for (size_t i = 0; i < golden.last_logits.size(); ++i) {
      ASSERT_NEAR(score->last_logits[i], golden.last_logits[i], 5e-5) << "logit " << i;
    }
    EXPECT_EQ(Greedy(*executor, kBlockSize, golden.ids, golden.greedy.size()), golden.greedy);
  }
}

TEST_P(ReferenceModelTest, ChunksOfAnySizeGiveTheSameBits) {
  const auto& [name, backend] = GetParam();
  const auto executor = MakeExecutor(ReferenceModelDir(name), backend, DType::kBF16);
  ModelGolden golden = GoldensFor(backend, name).back();
  if (IsEmulated(backend)) golden.ids.resize(std::min(golden.ids.size(), kEmulatedPrompt));
  const auto whole = ScoreTokens(*executor, kBlockSize, 256, golden.ids);
  ASSERT_TRUE(whole.ok()) << whole.status();
  for (int32_t chunk : IsEmulated(backend) ? std::vector{7, 17} : std::vector{1, 7, 16, 33}) {
    const auto parts = ScoreTokens(*executor, kBlockSize, chunk, golden.ids);
    ASSERT_TRUE(parts.ok()) << parts.status();
    EXPECT_EQ(parts->logprobs, whole->logprobs) << "chunk " << chunk;
    EXPECT_EQ(parts->last_logits, whole->last_logits) << "chunk " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReferenceModelTest, testing::ValuesIn(ModelsOfBackends()),
                         [](const auto& param_info) {
                           return TestName(std::get<0>(param_info.param) + "_" +
                                           std::get<1>(param_info.param));
                         });

class BackendTest : public testing::TestWithParam<std::string> {};

TEST_P(BackendTest, BFloat16IsAsGoodAsTransformersInBFloat16) {
  double agreement = 0;
  int prompts = 0;
  for (const std::string& name : ModelsFor(GetParam())) {
    const auto executor = MakeExecutor(ReferenceModelDir(name), GetParam(), DType::kBF16);
    for (const ModelGolden& golden : GoldensFor(GetParam(), name)) {
      const auto score = ScoreTokens(*executor, kBlockSize, 256, golden.ids);
      ASSERT_TRUE(score.ok()) << score.status();
      int same = 0;
      for (size_t i = 0; i < golden.argmax.size(); ++i) {
        same += score->argmax[i] == golden.argmax[i];
      }
      agreement += static_cast<double>(same) / static_cast<double>(golden.argmax.size());
      ++prompts;
      EXPECT_NEAR(score->nll / golden.nll, 1.0, 0.006) << name;
    }
  }
  EXPECT_GE(agreement / prompts, 0.96);
}

TEST_P(BackendTest, NanoGoldens) {
  const auto executor = MakeExecutor(NanoModelDir(), GetParam(), DType::kF32);
  const std::vector<NanoGolden> goldens = NanoGoldensFor(GetParam());
  EXPECT_EQ(goldens.size(), IsEmulated(GetParam()) ? 1U : 48U);
  int line = 0;
  for (const NanoGolden& golden : goldens) {
    EXPECT_EQ(Greedy(*executor, kBlockSize, golden.prompt_ids, golden.greedy.size()), golden.greedy)
        << "line " << line;
    ++line;
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendTest, testing::ValuesIn(Backends()),
                         [](const auto& param_info) { return TestName(param_info.param); });

}  // namespace
}  // namespace tessera
