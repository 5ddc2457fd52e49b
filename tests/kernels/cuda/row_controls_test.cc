// Controls of the row-wise and expert kernels: each is a kernel with one bug, which the emulator
// must report under every seed, and without it, which it must not.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/kernels/rank_sum.h"
#include "kernels/cuda/kernels/rows.h"
#include "tests/kernels/cuda/gpu_array.h"

namespace tessera::cuda {

// The copies, see CMakeLists.txt.
namespace norm_missing_barrier {
cudaError_t LaunchRmsNorm(cudaStream_t stream, const RmsNormLaunch& launch);
}  // namespace norm_missing_barrier
namespace silu_missing_wait {
cudaError_t LaunchSiluAndMul(cudaStream_t stream, const SiluAndMulLaunch& launch);
}  // namespace silu_missing_wait
namespace rank_sum_missing_wait {
cudaError_t LaunchRankSum(cudaStream_t stream, const RankSumLaunch& launch);
}  // namespace rank_sum_missing_wait
namespace rank_sum_takes_own_row {
cudaError_t LaunchRankSum(cudaStream_t stream, const RankSumLaunch& launch);
}  // namespace rank_sum_takes_own_row
namespace finalize_reads_absent_rows {
cudaError_t LaunchMoeFinalize(cudaStream_t stream, const MoeFinalizeLaunch& launch);
}  // namespace finalize_reads_absent_rows
namespace permute_clears_every_block {
cudaError_t LaunchMoePermute(cudaStream_t stream, const MoePermuteLaunch& launch);
}  // namespace permute_clears_every_block
namespace plan_missing_barrier {
cudaError_t LaunchPlanDispatch(cudaStream_t stream, const PlanDispatchLaunch& launch);
}  // namespace plan_missing_barrier
namespace sort_missing_barrier {
cudaError_t LaunchSortRows(cudaStream_t stream, const SortRowsLaunch& launch);
}  // namespace sort_missing_barrier
namespace rope_next_block {
cudaError_t LaunchQkNormRope(cudaStream_t stream, const QkNormRopeLaunch& launch);
}  // namespace rope_next_block

namespace {

namespace emulation = simt::emulation;

class RowControls : public testing::Test {
 protected:
  ~RowControls() override { emulation::SetOptions(emulation::OptionsFromEnvironment()); }

  // `run` launches on the default stream what it is given.
  template <typename Launcher>
  void Expect(const std::string& kernel, Launcher* good, Launcher* bad,
              const std::function<void(Launcher*)>& run) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      SCOPED_TRACE(seed);
      emulation::SetOptions({.seed = seed});
      run(good);
      EXPECT_EQ(simt::fake::AnyReport(), "");
      simt::fake::Reset();
      run(bad);
      EXPECT_NE(simt::fake::AnyReport().find(kernel), std::string::npos) << simt::fake::AnyReport();
      simt::fake::Reset();
    }
  }
};

TEST_F(RowControls, NormWithoutItsBarrier) {
  constexpr int32_t kCols = 600;  // three warps
  Expect<decltype(LaunchRmsNorm)>(
      "RmsNormKernel", LaunchRmsNorm, norm_missing_barrier::LaunchRmsNorm, [](auto* launch) {
        const GpuArray<float> x(std::vector<float>(2 * kCols, 1.0F));
        const GpuArray<float> weight(std::vector<float>(kCols, 1.0F));
        const GpuArray<float> out(2 * kCols);
        EXPECT_EQ(launch(nullptr, {.x = {.data = x.get(), .stride = kCols},
                                   .weight = weight.get(),
                                   .out = {.data = out.get(), .stride = kCols},
                                   .rows = 2,
                                   .cols = kCols}),
                  cudaSuccess);
        cudaDeviceSynchronize();
      });
}

// The kernel in front is still at work on what this one reads.
TEST_F(RowControls, ActivationThatDoesNotWait) {
  constexpr int32_t kCols = 24;
  Expect<decltype(LaunchSiluAndMul)>(
      "SiluAndMulKernel", LaunchSiluAndMul, silu_missing_wait::LaunchSiluAndMul, [](auto* launch) {
        const GpuArray<float> in(std::vector<float>(4 * kCols, 1.0F));
        const GpuArray<float> between(2 * kCols);
        const GpuArray<float> out(kCols);
        const SiluAndMulLaunch first{.x = {.data = in.get(), .stride = 4 * kCols},
                                     .out = {.data = between.get(), .stride = 2 * kCols},
                                     .rows = 1,
                                     .cols = 2 * kCols};
        const SiluAndMulLaunch second{.x = {.data = between.get(), .stride = 2 * kCols},
                                      .out = {.data = out.get(), .stride = kCols},
                                      .rows = 1,
                                      .cols = kCols};
        EXPECT_EQ(launch(nullptr, first), cudaSuccess);
        EXPECT_EQ(launch(nullptr, second), cudaSuccess);
        cudaDeviceSynchronize();
      });
}

// The next piece overwrites what this one still adds.
TEST_F(RowControls, SumOfRanksThatDoesNotWait) {
  Expect<decltype(LaunchRankSum)>(
      "RankSumKernel", LaunchRankSum, rank_sum_missing_wait::LaunchRankSum, [](auto* launch) {
        const GpuArray<float> parts(std::vector<float>(3 * 20, 1.0F));
        const GpuArray<float> out(20);
        for (int piece = 0; piece < 2; ++piece) {
          EXPECT_EQ(launch(nullptr, {.parts = {.data = parts.get(), .stride = 20},
                                     .ranks = 3,
                                     .out = out.get(),
                                     .count = 20}),
                    cudaSuccess);
        }
        cudaDeviceSynchronize();
      });
}

// A rank's own part never travels, so its place among the others' holds nothing.
TEST_F(RowControls, SumOfRanksThatReadsWhereItsOwnPartIsNot) {
  Expect<decltype(LaunchRankSum)>(
      "RankSumKernel", LaunchRankSum, rank_sum_takes_own_row::LaunchRankSum, [](auto* launch) {
        const GpuArray<float> parts(3 * 8);
        const GpuArray<float> own(std::vector<float>(8, 1.0F));
        for (int row : {0, 2}) {
          cudaMemset(parts.get() + ptrdiff_t{8} * row, 0, 8 * sizeof(float));
        }
        EXPECT_EQ(launch(nullptr, {.parts = {.data = parts.get(), .stride = 8},
                                   .own = own.get(),
                                   .own_rank = 1,
                                   .ranks = 3,
                                   .out = own.get(),
                                   .count = 8}),
                  cudaSuccess);
        cudaDeviceSynchronize();
      });
}

TEST_F(RowControls, FinalizeThatReadsRowsOfOtherRanks) {
  Expect<decltype(LaunchMoeFinalize)>(
      "SumRowsKernel", LaunchMoeFinalize, finalize_reads_absent_rows::LaunchMoeFinalize,
      [](auto* launch) {
        const GpuArray<float> y(std::vector<float>(16, 1.0F));
        const GpuArray<int32_t> positions(std::vector<int32_t>{1, -1});
        const GpuArray<float> weights(std::vector<float>(2, 1.0F));
        const GpuArray<float> out(8);
        EXPECT_EQ(launch(nullptr, {.y = {.data = y.get(), .stride = 8},
                                   .positions = positions.get(),
                                   .positions_stride = 2,
                                   .weights = weights.get(),
                                   .weights_stride = 2,
                                   .out = {.data = out.get(), .stride = 8},
                                   .rows = 1,
                                   .top_k = 2,
                                   .cols = 8}),
                  cudaSuccess);
        cudaDeviceSynchronize();
      });
}

// Two blocks write what belongs to one of them.
TEST_F(RowControls, PermuteThatClearsWhatOthersPlace) {
  Expect<decltype(LaunchMoePermute)>(
      "MoePermuteKernel", LaunchMoePermute, permute_clears_every_block::LaunchMoePermute,
      [](auto* launch) {
        const GpuArray<int32_t> ids(std::vector<int32_t>{0, 1, 1, 3, 2, 0});
        const GpuArray<int32_t> positions(6);
        const GpuArray<int32_t> offsets(3);
        const GpuArray<int32_t> row_token(6);
        const GpuArray<Fault> fault(std::vector<Fault>(1));
        EXPECT_EQ(launch(nullptr, {.ids = ids.get(),
                                   .ids_stride = 2,
                                   .positions = positions.get(),
                                   .positions_stride = 2,
                                   .offsets = offsets.get(),
                                   .row_token = row_token.get(),
                                   .capacity = 6,
                                   .tokens = 3,
                                   .top_k = 2,
                                   .experts = 2,
                                   .fault = fault.get()}),
                  cudaSuccess);
        cudaDeviceSynchronize();
      });
}

// Two ranks with a slot each; every token goes to both.
constexpr ChunkShape kPairOfRanks{.ranks = 2,
                                  .slots_per_rank = 1,
                                  .top_k = 2,
                                  .capacity = 300,  // three warps
                                  .row_slots = 1,
                                  .rows_per_token = 2};

TEST_F(RowControls, PlanWithoutItsBarrier) {
  Expect<decltype(LaunchPlanDispatch)>(
      "PlanDispatchKernel", LaunchPlanDispatch, plan_missing_barrier::LaunchPlanDispatch,
      [](auto* launch) {
        constexpr int32_t kTokens = 300;
        std::vector<int32_t> choices;
        for (int32_t t = 0; t < kTokens; ++t) choices.insert(choices.end(), {0, 1});
        const GpuArray<int32_t> replica_offsets(std::vector<int32_t>{0, 1, 2});
        const GpuArray<int32_t> replica_slots(std::vector<int32_t>{0, 1});
        const GpuArray<int32_t> ids(choices);
        const GpuArray<float> weights(std::vector<float>(choices.size(), 1.0F));
        const GpuArray<int32_t> counts(4);
        const GpuArray<int32_t> send_tokens(2 * kTokens);
        const GpuArray<int32_t> headers(size_t{8} * kTokens);
        const GpuArray<int32_t> token_rows(2 * kTokens);
        const GpuArray<int32_t> pair_rows(2 * kTokens);
        const GpuArray<Fault> fault(std::vector<Fault>(1));
        EXPECT_EQ(launch(nullptr, {.shape = kPairOfRanks,
                                   .placement = {.replica_offsets = replica_offsets.get(),
                                                 .replica_slots = replica_slots.get(),
                                                 .num_experts = 2,
                                                 .num_ranks = 2,
                                                 .slots_per_rank = 1},
                                   .tokens = kTokens,
                                   .ids = ids.get(),
                                   .weights = weights.get(),
                                   .send_counts = counts.get(),
                                   .pair_counts = counts.get() + 2,
                                   .send_tokens = send_tokens.get(),
                                   .headers = headers.get(),
                                   .token_rows = token_rows.get(),
                                   .pair_rows = pair_rows.get(),
                                   .fault = fault.get()}),
                  cudaSuccess);
        cudaDeviceSynchronize();
      });
}

TEST_F(RowControls, SortWithoutABarrier) {
  Expect<decltype(LaunchSortRows)>(
      "CheckChunksKernel", LaunchSortRows, sort_missing_barrier::LaunchSortRows, [](auto* launch) {
        constexpr int32_t kRows = 2 * 300;
        std::vector<int32_t> header_words;
        for (int32_t i = 0; i < kRows; ++i) {
          header_words.insert(header_words.end(), {1, i, 0, 0});
        }
        const GpuArray<int32_t> headers(header_words);
        const GpuArray<int32_t> recv_counts(std::vector<int32_t>{300, 280});
        const GpuArray<int32_t> pair_counts(2);
        const GpuArray<int32_t> offsets(2);
        const GpuArray<int32_t> row_index(kRows);
        const GpuArray<int32_t> sorted_rows(kRows);
        const GpuArray<int32_t> result_rows(kRows);
        const GpuArray<Fault> fault(std::vector<Fault>(1));
        EXPECT_EQ(launch(nullptr, {.shape = kPairOfRanks,
                                   .headers = headers.get(),
                                   .recv_counts = recv_counts.get(),
                                   .pair_counts = pair_counts.get(),
                                   .offsets = offsets.get(),
                                   .row_index = row_index.get(),
                                   .sorted_rows = sorted_rows.get(),
                                   .result_rows = result_rows.get(),
                                   .fault = fault.get()}),
                  cudaSuccess);
        cudaDeviceSynchronize();
      });
}

TEST_F(RowControls, KeysInTheNextBlockOfTheCache) {
  constexpr int32_t kHeadDim = 8;
  Expect<decltype(LaunchQkNormRope)>(
      "QkNormRopeKernel", LaunchQkNormRope, rope_next_block::LaunchQkNormRope, [](auto* launch) {
        const GpuArray<float> qkv(std::vector<float>(3 * kHeadDim, 1.0F));
        const GpuArray<float> norm(std::vector<float>(kHeadDim, 1.0F));
        const GpuArray<int32_t> position(std::vector<int32_t>{0});
        const GpuArray<int32_t> slot(std::vector<int32_t>{3});
        const GpuArray<float> k(size_t{4} * kHeadDim);
        const GpuArray<float> v(size_t{4} * kHeadDim);
        EXPECT_EQ(launch(nullptr, {.qkv = {.data = qkv.get(), .stride = 3 * kHeadDim},
                                   .q_norm = norm.get(),
                                   .k_norm = norm.get(),
                                   .cos_sin = norm.get(),
                                   .cos_sin_stride = kHeadDim,
                                   .positions = position.get(),
                                   .slots = slot.get(),
                                   .k_cache = {.data = k.get(), .stride = 2 * kHeadDim},
                                   .v_cache = {.data = v.get(), .stride = 2 * kHeadDim},
                                   .rows = 1,
                                   .q_heads = 1,
                                   .kv_heads = 1,
                                   .head_dim = kHeadDim,
                                   .block_size = 2}),
                  cudaSuccess);
        cudaDeviceSynchronize();
      });
}

}  // namespace
}  // namespace tessera::cuda
