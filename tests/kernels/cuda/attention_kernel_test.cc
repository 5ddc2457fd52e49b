// The launcher of kernels/cuda/kernels/attention.h by itself: odd shapes and alignments, windows,
// padded sequences, and the same bits in any batch, chunk and place of the pages.
#include <gtest/gtest.h>

#include "tests/kernels/cuda/attention_case.h"

namespace tessera::test {
namespace {

using cuda::AttentionProblem;

TEST(CudaAttentionTest, MatchesTheFormula) {
  ForSeeds(16, [](Random& random) {
    const AttentionHeads heads = RandomHeads(random);
    const std::vector<AttentionSequence> batch = RandomBatch(random, heads);
    const AttentionLayout layout{.q_gap = static_cast<int>(random.OneOf({0, 3, 2 * heads.dim})),
                                 .kv_offset = static_cast<int>(random.OneOf({0, 0, 1})),
                                 .workspace = random.Chance(0.7),
                                 .max_context = static_cast<int>(random.OneOf({0, 1000}))};
    SCOPED_TRACE(testing::Message() << "dim " << heads.dim << " group " << heads.group << " window "
                                    << heads.window << " act_bf16 " << heads.act_bf16 << " kv_bf16 "
                                    << heads.kv_bf16 << " workspace " << layout.workspace);
    EXPECT_LE(
        WorstError(Attend(random, heads, batch, layout), Expected(heads, batch)),
        (heads.kv_bf16 ? 2e-2 : 2e-5) + RoundingError(heads.act_bf16 ? DType::kBF16 : DType::kF32));
  });
}

// Alone or beside others, one token or a chunk of them, spans as blocks or in one pass.
TEST(CudaAttentionTest, GivesTheSameBitsHoweverItIsCut) {
  ForSeeds(6, [](Random& random) {
    AttentionHeads heads = RandomHeads(random);
    heads.kv_heads = static_cast<int>(random.Int(1, 2));
    heads.group = static_cast<int>(random.OneOf({1, 2, 5}));
    heads.dim = static_cast<int>(random.OneOf({16, 64}));
    heads.window = static_cast<int>(random.OneOf({0, 0, 280}));
    ExpectSameBitsHoweverItIsCut(random, heads, {});
  });
}

TEST(CudaAttentionTest, RefusesHeadsThatDoNotFit) {
  const AttentionProblem problem{
      .tokens = 1, .sequences = 1, .q_heads = 1, .kv_heads = 1, .head_dim = cuda::kMaxHeadDim + 1};
  EXPECT_EQ(cuda::LaunchPagedAttention(nullptr, problem), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tessera::test
