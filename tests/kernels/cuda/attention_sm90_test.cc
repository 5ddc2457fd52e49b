// The launcher of kernels/cuda/kernels/attention_sm90.h by itself: odd shapes and alignments, pages
// that TMA loads and such that are copied, windows, padded sequences, and the same bits however the
// work is cut.
#include <gtest/gtest.h>

#include "tests/kernels/cuda/attention_case.h"

namespace tessera::test {
namespace {

AttentionHeads RandomSm90Heads(Random& random) {
  AttentionHeads heads = RandomHeads(random);
  heads.kv_bf16 = true;
  heads.kv_heads = static_cast<int>(random.Int(1, 2));
  heads.dim = static_cast<int>(random.OneOf({20, 32, 64, 64, 80, 128, 128}));
  heads.block_size = static_cast<int>(random.OneOf({4, 8, 16, 16, 24, 64, 128}));
  return heads;
}

TEST(CudaAttentionSm90Test, MatchesTheFormula) {
  ForSeeds(14, [](Random& random) {
    const AttentionHeads heads = RandomSm90Heads(random);
    std::vector<AttentionSequence> batch = RandomBatch(random, heads);
    if (random.Chance(0.4)) batch = {RandomSequence(random, heads, 90, 140 / heads.group)};
    const AttentionLayout layout{.q_gap = static_cast<int>(random.OneOf({0, 3, 2 * heads.dim})),
                                 .kv_offset = static_cast<int>(random.OneOf({0, 0, 0, 1})),
                                 .workspace = random.Chance(0.7),
                                 .max_context = static_cast<int>(random.OneOf({0, 1000})),
                                 .sm90 = cuda::LaunchAttentionSm90};
    SCOPED_TRACE(testing::Message() << "dim " << heads.dim << " group " << heads.group << " window "
                                    << heads.window << " block " << heads.block_size << " act_bf16 "
                                    << heads.act_bf16 << " offset " << layout.kv_offset);
    EXPECT_LE(WorstError(Attend(random, heads, batch, layout), Expected(heads, batch)),
              2e-2 + RoundingError(heads.act_bf16 ? DType::kBF16 : DType::kF32));
  });
}

// Chunks of 40 positions have 128 rows in a block, single positions 64.
TEST(CudaAttentionSm90Test, GivesTheSameBitsHoweverItIsCut) {
  ForSeeds(3, [](Random& random) {
    AttentionHeads heads = RandomSm90Heads(random);
    heads.kv_heads = 1;
    heads.group = static_cast<int>(random.OneOf({2, 5}));
    heads.dim = 64;
    heads.window = static_cast<int>(random.OneOf({0, 0, 280}));
    ExpectSameBitsHoweverItIsCut(random, heads, {.sm90 = cuda::LaunchAttentionSm90});
  });
}

// TMA and copies bring the same.
TEST(CudaAttentionSm90Test, GivesTheSameBitsHoweverPagesLie) {
  Random random(1);
  AttentionHeads heads{.act_bf16 = false, .group = 3, .dim = 128, .window = 150};
  const std::vector<AttentionSequence> batch{RandomSequence(random, heads, 300, 2)};
  std::vector<float> first;
  for (const int block_size : {16, 64, 128, 24}) {
    heads.block_size = block_size;
    for (const int offset : {0, 1}) {
      if (offset == 1 && block_size != 16) continue;
      const std::vector<float> out =
          Attend(random, heads, batch, {.kv_offset = offset, .sm90 = cuda::LaunchAttentionSm90});
      if (first.empty()) first = out;
      EXPECT_EQ(out, first) << block_size << " positions in a block, offset " << offset;
    }
  }
}

TEST(CudaAttentionSm90Test, RefusesWhatDoesNotFit) {
  cuda::AttentionProblem problem{.kv_bf16 = true,
                                 .tokens = 1,
                                 .sequences = 1,
                                 .q_heads = 1,
                                 .kv_heads = 1,
                                 .head_dim = cuda::kMaxHeadDim + 1};
  EXPECT_EQ(cuda::LaunchAttentionSm90(nullptr, problem, {}), cudaErrorInvalidValue);
  problem.head_dim = cuda::kMaxHeadDim;
  problem.kv_bf16 = false;
  EXPECT_EQ(cuda::LaunchAttentionSm90(nullptr, problem, {}), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tessera::test
