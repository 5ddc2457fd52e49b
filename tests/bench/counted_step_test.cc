// Counted steps of tiny models against formulas written without the model's code.
#include "tests/bench/counted_step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <tuple>

#include "engine/planning/step_model.h"

namespace tessera {
namespace {

ModelConfig TinyConfig(bool moe) {
  ModelConfig config;
  config.architecture = moe ? Architecture::kQwen3Moe : Architecture::kQwen3;
  config.vocab_size = 320;
  config.hidden_size = 64;
  config.intermediate_size = 160;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 8;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.rms_norm_eps = 1e-6F;
  config.max_position_embeddings = 4096;
  config.rope.theta = 1e6;
  config.layer_window.assign(3, 0);
  config.layer_is_moe.assign(3, moe);
  if (moe) {
    config.num_experts = 16;
    config.num_experts_per_tok = 4;
    config.moe_intermediate_size = 48;
  }
  return config;
}

std::vector<CountedOperation> Count(const ModelConfig& config, const LayoutRequest& layout,
                                    const CountedShape& step) {
  const auto operations = CountStep(config, layout, step);
  EXPECT_TRUE(operations.ok()) << operations.status();
  return operations.ok() ? *operations : std::vector<CountedOperation>();
}

std::map<std::string, int> Calls(const std::vector<CountedOperation>& operations) {
  std::map<std::string, int> calls;
  for (const CountedOperation& operation : operations) ++calls[std::string(operation.name)];
  return calls;
}

// Sums over queries of the keys that each of them sees.
double Pairs(const CountedShape& step) {
  const auto last = static_cast<double>(step.context);
  const auto first = static_cast<double>(step.context - step.query + 1);
  return static_cast<double>(step.query) * (first + last) / 2;
}

class CountedStepTest : public testing::TestWithParam<std::tuple<bool, CountedShape>> {};

TEST_P(CountedStepTest, FlopsEqualTheFormula) {
  const auto& [moe, step] = GetParam();
  const ModelConfig config = TinyConfig(moe);
  const auto tokens = static_cast<double>(step.sequences * step.query);
  const double attention = 64 * (8 + 2 * 2) * 16 + 64 * 8 * 16;
  const double feed_forward = moe ? 64 * 16 + 4 * 3 * 64 * 48 : 3 * 64 * 160;
  const double want = 3 * (2 * tokens * (attention + feed_forward) +
                           4 * 8 * 16 * static_cast<double>(step.sequences) * Pairs(step)) +
                      2.0 * static_cast<double>(step.sequences) * 64 * 320;
  EXPECT_NEAR(Total(Count(config, {}, step)).flops / want, 1, 1e-12);
}

TEST_P(CountedStepTest, BytesEqualTheFormula) {
  const auto& [moe, step] = GetParam();
  const auto tokens = static_cast<double>(step.sequences * step.query);
  const auto sequences = static_cast<double>(step.sequences);
  const double qkv = (8 + 2 * 2) * 16, q = 8 * 16, h = 64;
  const auto product = [](double rows, double out, double in) {
    return 2 * (out * in + rows * (in + out));
  };
  const auto norm = [&](bool adds) { return tokens * h * 2 * (adds ? 4 : 2) + h * 4; };
  double layer = 2 * norm(true) + product(tokens, qkv, h) + product(tokens, h, q);
  layer += 2 * tokens * qkv * 2 + tokens * (16 * 4 + 4 + 4);  // rope
  layer += 2 * 2 * tokens * q + 2 * 2 * 2 * 16 * sequences * static_cast<double>(step.context);
  if (moe) {
    const double rows = tokens * 4, touched = 16 * (1 - std::pow(0.75, tokens));
    layer += 2 * (16 * h + tokens * h) + 4 * tokens * 16;  // router, f32 logits
    layer += 4 * tokens * 16 + 8 * rows + 4;               // top k
    layer += 4 * rows + 8 * 16;                            // count choices
    layer += 4 * (17 + 3 * rows);                          // permute
    layer += 4 + 8;                                        // count rows
    layer += 2 * (touched * 96 * h + rows * (96 + h));     // gate and up
    layer += 2 * 3 * rows * 48;                            // activation
    layer += 2 * (touched * 48 * h + rows * (48 + h));     // down
    layer += 2 * rows * h + 8 * rows + 2 * tokens * h;     // finalize
  } else {
    layer += product(tokens, 320, h) + 2 * 3 * tokens * 160 + product(tokens, h, 160);
  }
  double want = 3 * layer - tokens * h * 2 * 2;                 // the first norm adds nothing
  want += norm(true) + tokens * (4 + 2 * 2 * h);                // final norm, embedding
  want += sequences * 4 + 2 * sequences * h * 2;                // gather
  want += 2 * (320 * h + sequences * h) + 4 * sequences * 320;  // logits
  want += 4 * sequences * 320 + 4 * sequences;                  // sample
  double counted = 0;
  for (const CountedOperation& operation : Count(TinyConfig(moe), {}, step)) {
    if (operation.name != "sum_counts") counted += operation.bytes;
  }
  EXPECT_NEAR(counted, want, 1e-6 * want);
}

TEST_P(CountedStepTest, LaunchesAreThoseOfALayer) {
  const auto& [moe, step] = GetParam();
  const std::vector<CountedOperation> operations = Count(TinyConfig(moe), {}, step);
  std::map<std::string, int> want{{"embed", 1},
                                  {"rms_norm", 7},
                                  {"gemm", 3 * (moe ? 3 : 4) + 1},
                                  {"qk_norm_rope_store_kv", 3},
                                  {"paged_attention", 3},
                                  {"silu_and_mul", 3},
                                  {"gather_rows", 1},
                                  {"sample", 1}};
  if (moe) {
    want.insert({{"route_top_k", 3},
                 {"moe_permute", 3},
                 {"grouped_gemm", 6},
                 {"moe_finalize", 3},
                 {"count_choices", 3},
                 {"count_rows", 3},
                 {"sum_counts", 1}});
  }
  EXPECT_EQ(Calls(operations), want);
  EXPECT_EQ(Total(operations).collectives, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Steps, CountedStepTest,
    testing::Combine(testing::Bool(),
                     testing::Values(CountedShape{.sequences = 1, .query = 1, .context = 5},
                                     CountedShape{.sequences = 7, .query = 1, .context = 130},
                                     CountedShape{.sequences = 2, .query = 33, .context = 50})));

TEST(CountedStep, TensorParallelRanksShareTheWork) {
  const CountedShape step{.sequences = 1, .query = 1, .context = 9};
  const ModelConfig config = TinyConfig(false);
  const StepTotals alone = Total(Count(config, {}, step));
  const std::vector<CountedOperation> operations = Count(config, {.tensor_parallel = 2}, step);
  const StepTotals shared = Total(operations);
  EXPECT_NEAR(shared.flops / alone.flops, 0.5, 1e-12);
  // One token is not divided: an all-reduce behind the embedding and behind each block, and the
  // logits are gathered.
  EXPECT_EQ(Calls(operations)["all_reduce"], 1 + 2 * 3);
  EXPECT_EQ(shared.collectives, 1 + 2 * 3 + 1);
  EXPECT_DOUBLE_EQ(shared.sent, (1 + 2 * 3) * 64 * 2.0 + 320 / 2 * 4);
}

TEST(CountedStep, WindowsBoundWhatAQuerySees) {
  ModelConfig config = TinyConfig(false);
  const CountedShape step{.sequences = 3, .query = 1, .context = 100};
  const double full = Total(Count(config, {}, step)).flops;
  config.layer_window = {0, 20, 0};
  EXPECT_DOUBLE_EQ(full - Total(Count(config, {}, step)).flops, 3.0 * 4 * 8 * 16 * (100 - 20));
}

TEST(CountedStep, LayoutsThatDoNotFitAreRefused) {
  EXPECT_EQ(CountStep(TinyConfig(false), {.tensor_parallel = 3}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CountedStep, ThePredictionAddsTheLimitsOfEachOperation) {
  const GpuSpec gpu{.memory_bandwidth = 100 / kMemoryShare,
                    .bf16_flops = 1000 / kComputeShare,
                    .nvlink = true,
                    .link_bandwidth = 10 / kLinkShare};
  const std::vector<CountedOperation> operations{
      {.name = "by bytes", .bytes = 200, .flops = 1000},
      {.name = "by operations", .bytes = 200, .flops = 5000},
      {.name = "collective", .sent = 30, .ranks = 2}};
  EXPECT_NEAR(PredictedSeconds(operations, gpu, 0.5), (2 + 0.5) + (5 + 0.5) + 3, 1e-4);
}

}  // namespace
}  // namespace tessera
