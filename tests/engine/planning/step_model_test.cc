// Step times, against calculations by hand and the limits in the literature of this project.
#include "engine/planning/step_model.h"

#include <cmath>

#include "gmock/gmock.h"
#include "tests/engine/planning/configs.h"

namespace tessera {
namespace {

TEST(StepModelTest, DistinctExperts) {
  EXPECT_NEAR(DistinctExperts(128, 8, 1), 8, 1e-9);
  EXPECT_NEAR(DistinctExperts(128, 8, 8), 51.6, 0.1);
  EXPECT_NEAR(DistinctExperts(128, 8, 32), 111.8, 0.1);
  EXPECT_NEAR(DistinctExperts(128, 8, 64), 125.9, 0.1);
  EXPECT_NEAR(DistinctExperts(128, 8, 128), 128, 0.1);
}

TEST(StepModelTest, DistinctRanks) {
  EXPECT_NEAR(DistinctRanks(128, 8, 8), 5.34, 0.01);
  EXPECT_NEAR(DistinctRanks(128, 8, 1), 1, 1e-9);
  EXPECT_NEAR(DistinctRanks(128, 8, 128), 8, 1e-9);  // one expert per rank
  EXPECT_NEAR(DistinctRanks(2, 2, 2), 2, 1e-9);
}

// Bytes of a step divided by 3.0 TB/s, what an H100 copies at: Qwen3-30B-A3B on one GPU, bfloat16.
TEST(StepModelTest, DecodeLimitOfOneGpu) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  const StepModel model(config, {}, Gpu("h100"), WeightFormat::kBFloat16);
  const auto milliseconds = [&](int64_t batch, int64_t context) {
    return model.Decode(batch, context).seconds * 1e3 * 3.35 * kMemoryShare / 3.0;
  };
  EXPECT_NEAR(milliseconds(1, 1'024), 2.06, 0.02);
  EXPECT_NEAR(milliseconds(8, 1'024), 8.9, 0.1);
  EXPECT_NEAR(milliseconds(32, 1'024), 18.8, 0.1);
  EXPECT_NEAR(milliseconds(64, 1'024), 22.0, 0.1);
  EXPECT_NEAR(milliseconds(128, 1'024), 24.4, 0.1);
  EXPECT_NEAR(milliseconds(32, 8'192), 26.3, 0.2);
}

// 5.46 GFLOP per token and 786,432 per token and key, half of the prompt on average, at 790
// TFLOP/s: 140k, 126k, 112k and 91k tokens per second.
TEST(StepModelTest, PrefillLimitOfOneGpu) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  const StepModel model(config, {}, Gpu("h100"), WeightFormat::kBFloat16);
  const auto rate = [&](int64_t prompt) { return 8'192 / model.Prefill(8'192, prompt).seconds; };
  EXPECT_NEAR(rate(512), 140e3, 1.5e3);
  EXPECT_NEAR(rate(2'048), 126e3, 1.5e3);
  EXPECT_NEAR(rate(4'096), 112e3, 1.5e3);
  EXPECT_NEAR(rate(8'192), 91e3, 1.5e3);
}

// Qwen3-235B-A22B, TP 8 on H100, one sequence of 4096 tokens. A rank reads
//   94 layers x (18,874,368 attention + 1,048,576 router + 8 x 4,718,592 expert slices)
//     = 94 x 57,671,680                                  = 5,421,137,920
//   lm_head 18,992 x 4096 x 2                            =   155,582,464
//   KV 4096 x 48,128                                     =   197,132,288
//   sum 5,773,852,672 bytes at 0.9 x 3.35 TB/s           = 1.9150 ms
// and takes part in 2 x 94 all-reduces of 8192 bytes, each sending 2 x 7/8 x 8192 = 14,336 bytes:
//   188 x (8 us + 14,336 / (0.8 x 450 GB/s))             = 1.5115 ms
TEST(StepModelTest, LargeMoeDecodeByHand) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const StepModel model(config, {.tensor_parallel = 8}, Gpu("h100"), WeightFormat::kBFloat16);
  const StepEstimate step = model.Decode(1, 4'096);
  EXPECT_NEAR(step.read_seconds * 1e3, 1.9150, 1e-3);
  EXPECT_NEAR(step.comm_seconds * 1e3, 1.5115, 1e-3);
  EXPECT_NEAR(step.seconds * 1e3, 3.4265, 2e-3);
  EXPECT_NEAR(step.comm_bytes_per_layer_per_token, 2 * 14'336, 1e-6);
  // 41.89 GFLOP without lm_head, 2 x 622,329,856 with it, 3,080,192 per key; an eighth of it, and
  // what every rank does itself: the router, and KV heads that two ranks share.
  const double shared = 94 * 2 * (524'288.0 * 7 / 8 + 2 * 512 * 4'096.0 / 8);
  const double flops = (41.89e9 + 2 * 622'329'856.0 + 3'080'192.0 * 4'096) / 8 + shared;
  EXPECT_NEAR(step.math_seconds, flops / (989.5e12 * kComputeShare), 0.01 * step.math_seconds);
}

// Bytes per rank and layer in units of S = tokens x hidden x 2. Two all-reduces: 3.5 S. Dispatch
// and combine: 1.17 S, all that data-parallel attention sends; with four ranks per group a
// reduce-scatter and an all-gather of S / 2 come on top, 2 x 3/4 x 1/2 = 0.75 S.
TEST(StepModelTest, CommunicationOfEightRanks) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const double token_bytes = 8'192;
  const auto prefill = [&](const LayoutRequest& layout) {
    return StepModel(config, layout, Gpu("h100"), WeightFormat::kBFloat16).Prefill(4'096, 4'096);
  };
  const StepEstimate tensor = prefill({.tensor_parallel = 8});
  EXPECT_FALSE(tensor.all_to_all);
  EXPECT_NEAR(tensor.comm_bytes_per_layer_per_token / token_bytes, 3.5, 1e-6);
  const StepEstimate both =
      prefill({.tensor_parallel = 4, .data_parallel = 2, .expert_parallel = true});
  EXPECT_TRUE(both.all_to_all);
  EXPECT_NEAR(both.comm_bytes_per_layer_per_token / token_bytes, 1.92, 0.01);
  const StepEstimate groups = prefill({.data_parallel = 8, .expert_parallel = true});
  EXPECT_TRUE(groups.all_to_all);
  EXPECT_NEAR(groups.comm_bytes_per_layer_per_token / token_bytes, 1.17, 0.01);
}

// In one group of eight all-to-all saves 17 % of a prompt's bytes, but a decode step would wait for
// four exchanges instead of one: the engine keeps all-reduce for both.
TEST(StepModelTest, TheModeIsThatOfTheLayout) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const StepModel model(config, {.tensor_parallel = 8, .expert_parallel = true}, Gpu("h100"),
                        WeightFormat::kBFloat16);
  const StepEstimate prefill = model.Prefill(4'096, 4'096);
  EXPECT_FALSE(prefill.all_to_all);
  EXPECT_NEAR(prefill.comm_bytes_per_layer_per_token / 8'192, 3.5, 1e-6);
  EXPECT_FALSE(model.Decode(1, 4'096).all_to_all);
}

TEST(StepModelTest, OneRankSendsNothing) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  const StepEstimate step =
      StepModel(config, {}, Gpu("h200"), WeightFormat::kInt4).Decode(32, 4'096);
  EXPECT_EQ(step.comm_seconds, 0);
  EXPECT_EQ(step.comm_bytes_per_layer_per_token, 0);
}

// Dense data-parallel groups are independent: they send nothing to each other.
TEST(StepModelTest, DenseGroupsAreIndependent) {
  const ModelConfig config = PublishedConfig("Qwen3-0.6B");
  const StepModel one(config, {}, Gpu("a100"), WeightFormat::kBFloat16);
  const StepModel four(config, {.data_parallel = 4}, Gpu("a100"), WeightFormat::kBFloat16);
  EXPECT_DOUBLE_EQ(four.Decode(128, 2'048).seconds, one.Decode(32, 2'048).seconds);
}

TEST(StepModelTest, MoreWorkTakesLonger) {
  for (const std::string name : {"Qwen3-0.6B", "Qwen3-30B-A3B", "Qwen3-235B-A22B"}) {
    const ModelConfig config = PublishedConfig(name);
    for (const LayoutRequest& layout : {LayoutRequest{}, LayoutRequest{.tensor_parallel = 4},
                                        LayoutRequest{.tensor_parallel = 2, .data_parallel = 4}}) {
      const StepModel model(config, layout, Gpu("h100"), WeightFormat::kFp8);
      double last = 0;
      for (const int64_t batch : {1, 8, 32, 128, 512, 2'048}) {
        const double seconds = model.Decode(batch, 1'024).seconds;
        EXPECT_GE(seconds, last) << name << " batch " << batch;
        EXPECT_LT(seconds, model.Decode(batch, 8'192).seconds) << name << " batch " << batch;
        last = seconds;
      }
      EXPECT_LT(model.Prefill(2'048, 2'048).seconds, model.Prefill(4'096, 2'048).seconds);
    }
  }
}

TEST(StepModelTest, NarrowerWeightsAndFasterMemoryTakeLess) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  const LayoutRequest layout{.tensor_parallel = 2};
  const auto decode = [&](const std::string& gpu, WeightFormat format) {
    return StepModel(config, layout, Gpu(gpu), format).Decode(32, 4'096).seconds;
  };
  EXPECT_LT(decode("h100", WeightFormat::kFp8), decode("h100", WeightFormat::kBFloat16));
  EXPECT_LT(decode("h100", WeightFormat::kInt4), decode("h100", WeightFormat::kFp8));
  EXPECT_LT(decode("h200", WeightFormat::kFp8), decode("h100", WeightFormat::kFp8));
  EXPECT_LT(decode("b200", WeightFormat::kFp8), decode("h200", WeightFormat::kFp8));
  EXPECT_LT(decode("a100", WeightFormat::kBFloat16), decode("l40s", WeightFormat::kBFloat16));
}

// A tensor-parallel group over two nodes pays for the network.
TEST(StepModelTest, NodesAreFarApart) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const auto comm = [&](int tp) {
    return StepModel(config, {.tensor_parallel = tp}, Gpu("h100"), WeightFormat::kFp8)
        .Decode(1, 1'024)
        .comm_seconds;
  };
  EXPECT_GT(comm(16), 2 * comm(8));
}

TEST(StepModelTest, SlidingWindowsBoundTheKeys) {
  ModelConfig config = PublishedConfig("Qwen3-0.6B");
  const StepModel full(config, {}, Gpu("h100"), WeightFormat::kBFloat16);
  ModelConfig windowed_config = config;
  windowed_config.layer_window.assign(windowed_config.num_hidden_layers, 1'024);
  const StepModel windowed(windowed_config, {}, Gpu("h100"), WeightFormat::kBFloat16);
  EXPECT_DOUBLE_EQ(windowed.Decode(8, 32'768).seconds, full.Decode(8, 1'024).seconds);
  EXPECT_LT(windowed.Prefill(4'096, 32'768).seconds, full.Prefill(4'096, 32'768).seconds);
  EXPECT_DOUBLE_EQ(windowed.Prefill(4'096, 1'024).seconds, full.Prefill(4'096, 1'024).seconds);
}

}  // namespace
}  // namespace tessera
