// Bugs in copies of gemm.cu and attention.cu (CMakeLists.txt), each of which the emulator must
// report under every seed; without them it must report nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/kernels/attention.h"
#include "kernels/cuda/kernels/gemm.h"
#include "tests/kernels/cuda/attention_case.h"
#include "tests/kernels/cuda/gemm_sm90_case.h"

#define TESSERA_GEMM_COPY(name)                                            \
  namespace tessera::cuda::name {                                          \
  cudaError_t LaunchGemm(cudaStream_t stream, const GemmProblem& problem); \
  }
TESSERA_GEMM_COPY(gemm_missing_barrier)
TESSERA_GEMM_COPY(gemm_copies_too_early)
TESSERA_GEMM_COPY(gemm_next_group_rows)

#define TESSERA_ATTENTION_COPY(name)                                                      \
  namespace tessera::cuda::name {                                                         \
  cudaError_t LaunchPagedAttention(cudaStream_t stream, const AttentionProblem& problem); \
  }
TESSERA_ATTENTION_COPY(attention80_missing_barrier)
TESSERA_ATTENTION_COPY(attention80_copies_too_early)

namespace tessera::test {
namespace {

namespace emulation = simt::emulation;

using Expectation = std::function<void(const std::string& kernel, const std::string& finding,
                                       const std::function<std::string(bool bug)>& run)>;

class CudaTileControls : public testing::Test {
 protected:
  ~CudaTileControls() override { emulation::SetOptions(emulation::OptionsFromEnvironment()); }

  // `run` returns what was reported about one launch, with the bug or without.
  static void ExpectFound(const std::string& kernel, const std::string& finding,
                          const std::function<std::string(bool bug)>& run) {
    constexpr uint64_t kSeeds = 5;
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      SCOPED_TRACE(seed);
      emulation::Options options = emulation::OptionsFromEnvironment();
      options.seed = seed;
      emulation::SetOptions(options);
      if (seed == 1) {
        EXPECT_EQ(run(/*bug=*/false), "");
      }
      const std::string report = run(/*bug=*/true);
      EXPECT_THAT(report, testing::HasSubstr(kernel));
      EXPECT_THAT(report, testing::ContainsRegex(finding));
    }
  }
};

template <cudaError_t (*kLaunch)(cudaStream_t, const cuda::GemmProblem&)>
cudaError_t Older(cudaStream_t stream, const cuda::GemmProblem& problem, const cuda::GemmSm90Maps&,
                  int) {
  return kLaunch(stream, problem);
}

// Tiles of 16 and of 64 rows, each in two groups of which neither fills a tile; K in one pass, with
// more steps than there are stages.
void ExpectFoundInGemm(LaunchSm90 bad, const std::string& finding, const Expectation& expect) {
  for (const int rows : {5, 40}) {
    const Sm90Case c{.n = 70, .k = 600, .group_rows = {rows, rows}, .workspace = false};
    Random random(1);
    const Sm90Inputs inputs(random, c);
    expect("GemmKernel", finding, [&](bool bug) {
      std::string report;
      Multiply(c, inputs, bug ? bad : Older<cuda::LaunchGemm>, &report);
      return report;
    });
  }
}

TEST_F(CudaTileControls, GemmWithoutItsBarrier) {
  ExpectFoundInGemm(Older<cuda::gemm_missing_barrier::LaunchGemm>, "shared offset", ExpectFound);
}

TEST_F(CudaTileControls, GemmThatWaitsForAGroupTooFew) {
  ExpectFoundInGemm(Older<cuda::gemm_copies_too_early::LaunchGemm>, "cp.async of", ExpectFound);
}

TEST_F(CudaTileControls, GemmThatWritesRowsOfTheNextExpert) {
  ExpectFoundInGemm(Older<cuda::gemm_next_group_rows::LaunchGemm>,
                    "race on global memory|store of 4 bytes .* outside", ExpectFound);
}

// More tiles of keys than there are stages.
void ExpectFoundInAttention(LaunchPaged bad, const Expectation& expect) {
  const AttentionHeads heads{.group = 2, .dim = 32};
  Random random(1);
  const std::vector<AttentionSequence> batch{RandomSequence(random, heads, 200, 2)};
  expect("AttentionKernel", "shared offset", [&](bool bug) {
    std::string report;
    Attend(random, heads, batch,
           {.workspace = false, .launch = bug ? bad : cuda::LaunchPagedAttention}, &report);
    return report;
  });
}

TEST_F(CudaTileControls, AttentionWithoutItsBarrier) {
  ExpectFoundInAttention(cuda::attention80_missing_barrier::LaunchPagedAttention, ExpectFound);
}

TEST_F(CudaTileControls, AttentionThatWaitsForAGroupTooFew) {
  ExpectFoundInAttention(cuda::attention80_copies_too_early::LaunchPagedAttention, ExpectFound);
}

}  // namespace
}  // namespace tessera::test
