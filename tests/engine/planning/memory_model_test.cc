// Bytes per rank, against calculations by hand.
#include "engine/planning/memory_model.h"

#include "parallel/topology.h"
#include "tests/engine/planning/configs.h"

namespace tessera {
namespace {

ModelShard ShardOf(const ModelConfig& config, const LayoutRequest& layout, int rank = 0) {
  EXPECT_TRUE(ValidateLayout(layout, LayoutShape(config)).ok());
  return MakeShard(config, *Topology::Create(layout, rank));
}

int64_t Weights(const ModelConfig& config, const LayoutRequest& layout,
                WeightFormat format = WeightFormat::kBFloat16) {
  return WeightBytes(config, SliceSizes(config, ShardOf(config, layout), format));
}

// Qwen3-235B-A22B: hidden 4096, 94 layers, 64 query and 4 KV heads of 128, 128 experts of width
// 1536, vocabulary 151936, untied. One layer:
//   q and o       2 x 8192 x 4096                        = 67,108,864 weights
//   k and v       2 x  512 x 4096                        =  4,194,304
//   router            128 x 4096                         =    524,288
//   experts       128 x 3 x 1536 x 4096                  = 2,415,919,104
//   norms         2 x 4096 + 2 x 128 (float32)           = 8,448
TEST(MemoryModelTest, LargeMoeOnOneRankHoldsAllParameters) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const int64_t norms = 94 * 8'448 + 4'096;
  EXPECT_EQ(config.num_parameters(), 235'093'634'560);
  EXPECT_EQ(Weights(config, {}), 2 * (235'093'634'560 - norms) + 4 * norms);
  EXPECT_EQ(KvBytesPerToken(config, ShardOf(config, {})), 192'512);  // 2 x 4 x 128 x 94 x 2
}

// TP 8, every expert cut into 8 slices of 192 columns. Bytes of one layer:
//   q and o    67,108,864 / 8 x 2                        = 16,777,216
//   k and v    one head of 128 rows each: 2 x 128 x 4096 x 2 = 2,097,152   (4 heads, 8 ranks)
//   router     524,288 x 2                               =  1,048,576
//   experts    2,415,919,104 / 8 x 2                     = 603,979,776
//   norms      8,448 x 4                                 =     33,792
//   sum                                                  = 623,936,512;  x 94 = 58,650,032,128
// embedding and lm_head: 2 x 18,992 x 4096 x 2           =    311,164,928
// final norm: 4096 x 4                                   =         16,384
TEST(MemoryModelTest, LargeMoeTensorParallel) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const LayoutRequest layout{.tensor_parallel = 8};
  EXPECT_EQ(Weights(config, layout), 58'650'032'128 + 311'164'928 + 16'384);
  EXPECT_EQ(KvBytesPerToken(config, ShardOf(config, layout)), 192'512 / 4);
  // Whole experts instead of slices: as many bytes.
  EXPECT_EQ(Weights(config, {.tensor_parallel = 8, .expert_parallel = true}),
            Weights(config, layout));
}

// DP 8 with expert parallelism: attention, embedding and lm_head whole on every rank, 16 experts.
// One layer: (67,108,864 + 4,194,304 + 524,288 + 16 x 18,874,368) x 2 + 33,792 = 747,668,480.
TEST(MemoryModelTest, LargeMoeDataParallelAttention) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const LayoutRequest layout{.data_parallel = 8, .expert_parallel = true};
  EXPECT_EQ(Weights(config, layout), 94 * 747'668'480L + 4L * 151'936 * 4'096 + 16'384);
  EXPECT_EQ(KvBytesPerToken(config, ShardOf(config, layout)), 192'512);
}

TEST(MemoryModelTest, TiedEmbeddingCountsOnce) {
  const ModelConfig config = PublishedConfig("Qwen3-0.6B");
  const int64_t norms = 28 * (2 * 1024 + 2 * 128) + 1024;
  EXPECT_EQ(config.num_parameters(), 596'049'920);
  EXPECT_EQ(Weights(config, {}), 2 * (596'049'920 - norms) + 4 * norms);
  EXPECT_EQ(KvBytesPerToken(config, ShardOf(config, {})), 114'688);  // 2 x 8 x 128 x 28 x 2
}

TEST(MemoryModelTest, SmallMoe) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  const int64_t norms = 48 * (2 * 2048 + 2 * 128) + 2048;
  EXPECT_EQ(Weights(config, {}), 2 * (config.num_parameters() - norms) + 4 * norms);
  EXPECT_EQ(KvBytesPerToken(config, ShardOf(config, {})), 98'304);
}

// A projection of 192 rows and 4096 columns, as an expert of width 1536 has on 8 ranks.
TEST(MemoryModelTest, QuantisedProjectionsWithTheirScales) {
  const int64_t weights = 192 * 4'096;
  EXPECT_EQ(ProjectionSize(192, 4'096, WeightFormat::kBFloat16).bytes, weights * 2);
  EXPECT_EQ(ProjectionSize(192, 4'096, WeightFormat::kFp8).bytes, weights + 2 * 32 * 2);
  EXPECT_EQ(ProjectionSize(192, 4'096, WeightFormat::kInt8).bytes, weights + 192 * 2);
  EXPECT_EQ(ProjectionSize(192, 4'096, WeightFormat::kInt4).bytes, weights / 2 + 192 * 32 * 2);
  for (const auto format : {WeightFormat::kBFloat16, WeightFormat::kFp8, WeightFormat::kInt4}) {
    EXPECT_EQ(ProjectionSize(192, 4'096, format).parameters, weights);
  }
}

// Only the projections shrink: what fp8 saves is one byte of each of their weights, less the
// scales.
TEST(MemoryModelTest, EmbeddingRouterAndNormsStayWide) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  const int64_t attention = 2 * 4'096 * 2'048 + 2 * 512 * 2'048;
  const int64_t experts = 128 * 3 * 768 * 2'048;
  const int64_t attention_blocks = 2 * 32 * 16 + 2 * 4 * 16;
  const int64_t expert_blocks = 128 * 3 * 6 * 16;
  EXPECT_EQ(Weights(config, {}) - Weights(config, {}, WeightFormat::kFp8),
            48 * (attention + experts - 2 * (attention_blocks + expert_blocks)));
}

// Slices of all ranks together are the model: nothing is lost, nothing held twice but what the
// layout replicates.
TEST(MemoryModelTest, RanksTogetherHoldTheModelOnce) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  for (const bool expert_parallel : {false, true}) {
    const LayoutRequest layout{.tensor_parallel = 4, .expert_parallel = expert_parallel};
    int64_t bytes = 0;
    for (int rank = 0; rank < 4; ++rank) {
      bytes += WeightBytes(
          config, SliceSizes(config, ShardOf(config, layout, rank), WeightFormat::kBFloat16));
    }
    const int64_t replicated = 48 * (128 * 2'048 * 2 + (2 * 2'048 + 2 * 128) * 4) + 2'048 * 4;
    EXPECT_EQ(bytes, Weights(config, {}) + 3 * replicated);
  }
}

// The buffers of Qwen3-235B-A22B on TP 8 with steps of 4096 tokens and bfloat16 activations:
//   RoPE table      40,960 x 128 x 4                                   =  20,971,520
//   activations     4096 x (3 x 4096 + 2 x 1024 + 2 x 128) x 2         = 119,537,664
//   logits          256 x (4096 x 2 + 151,936 x 4 + 9 x 18,992 x 4)    = 332,709,888
//   router logits   4096 x 128 x 4                                     =   2,097,152
//   row lists       32,768 x 4 x 4 + 129 x 4                           =     524,804
//   expert rows     32,768 x (3 x 192 + 4096) x 2                      = 306,184,192
//   penalties       256 x (151,936 + 4,748) x 4                        = 160,444,416
//   their sums      4096 x 4096 x 2                                    =  33,554,432
//   own rows' sums  2 x 512 x 4096 x 2                                 =   8,388,608
TEST(MemoryModelTest, Buffers) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const ModelShard shard = ShardOf(config, {.tensor_parallel = 8});
  EXPECT_EQ(BufferBytes(config, shard,
                        {.max_tokens = 4'096, .max_positions = 40'960, .max_num_seqs = 256}),
            823'968'260 + 160'444'416);
  EXPECT_EQ(BufferBytes(config, ShardOf(config, {.tensor_parallel = 8}, 1),
                        {.max_tokens = 4'096, .max_positions = 40'960, .max_num_seqs = 256}),
            823'968'260)
      << "another rank than the first of the group draws nothing";
}

// The same model on TP 8 x DP 8 with whole experts: 2 on each of 64 ranks, so a token of the 32,768
// that the ranks have together needs 2 rows here, not 8.
//   RoPE table, activations, router logits as above                    = 142,606,336
//   logits          64 x (4096 x 2 + 151,936 x 4 + 9 x 18,992 x 4)     =  83,177,472
//   choices         32,768 x 8 x 3 x 4                                 =   3,145,728
//   row lists       65,536 x 4 + 3 x 4                                 =     262,156
//   expert rows     65,536 x (3 x 1536 + 4096) x 2                     = 1,140,850,688
//   all rows, sums  2 x 32,768 x 4096 x 2                              = 536,870,912
//   own rows' sums  2 x 512 x 4096 x 2                                 =   8,388,608
// and to send rows, in chunks of 512 per rank:
//   rows            2 x 65,536 x 4096 x 2                              = 1,073,741,824
//   their headers   2 x 32,768 x (2 + 2 x 2) x 4                       =   1,572,864
//   tokens, results 2 x 32,768 x 4                                     =     262,144
//   sorted rows     2 x 65,536 x 4                                     =     524,288
//   inverse maps    2 x 512 x 8 x 4                                    =      32,768
//   counts, offsets 5 x 64 x 4 + 64                                    =       1,344
TEST(MemoryModelTest, BuffersOfFewExpertsPerRank) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const ModelShard shard =
      ShardOf(config, {.tensor_parallel = 8, .data_parallel = 8, .expert_parallel = true});
  EXPECT_EQ(shard.expert_slots, 2);
  EXPECT_EQ(BufferBytes(config, shard, {.max_tokens = 4'096, .max_positions = 40'960}),
            142'606'336L + 83'177'472 + 3'145'728 + 262'156 + 1'140'850'688 + 536'870'912 +
                8'388'608 + 1'073'741'824 + 1'572'864 + 262'144 + 524'288 + 32'768 + 1'344);
}

TEST(MemoryModelTest, FormatsHaveNames) {
  for (const std::string name : {"bfloat16", "fp8", "int8", "int4"}) {
    const auto format = ParseWeightFormat(name);
    ASSERT_TRUE(format.ok());
    EXPECT_EQ(WeightFormatName(*format), name);
  }
  EXPECT_EQ(ParseWeightFormat("fp4").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera
