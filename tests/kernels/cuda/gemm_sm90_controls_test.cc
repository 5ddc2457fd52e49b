// Bugs in copies of gemm_sm90.cu (CMakeLists.txt), each of which the emulator must report under
// every seed; without them it must report nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "tests/kernels/cuda/gemm_sm90_case.h"

#define TESSERA_SM90_COPY(name)                                               \
  namespace tessera::cuda::name {                                             \
  cudaError_t LaunchGemmSm90(cudaStream_t stream, const GemmProblem& problem, \
                             const GemmSm90Maps& maps, int multiprocessors);  \
  }
TESSERA_SM90_COPY(sm90_producer_parity)
TESSERA_SM90_COPY(sm90_consumer_parity)
TESSERA_SM90_COPY(sm90_released_too_early)
TESSERA_SM90_COPY(sm90_no_wgmma_fence)
TESSERA_SM90_COPY(sm90_no_init_fence)
TESSERA_SM90_COPY(sm90_no_proxy_fence)
TESSERA_SM90_COPY(sm90_no_map_fence)
TESSERA_SM90_COPY(sm90_copies_too_early)
TESSERA_SM90_COPY(sm90_no_swizzle)
TESSERA_SM90_COPY(sm90_pair_begins_apart)
TESSERA_SM90_COPY(sm90_pair_ends_apart)
TESSERA_SM90_COPY(sm90_pair_not_asked)

namespace tessera::test {
namespace {

namespace emulation = simt::emulation;

enum class Needs { kAnyRows, kCopiedRows, kGroups, kPairs };

struct Control {
  const char* name;
  LaunchSm90 launch;
  Needs needs;
  const char* report;  // a part of it
};
void PrintTo(const Control& control, std::ostream* out) { *out << control.name; }

class CudaGemmSm90Controls : public testing::TestWithParam<Control> {
 protected:
  ~CudaGemmSm90Controls() override { emulation::SetOptions(emulation::OptionsFromEnvironment()); }
};

// More steps than there are stages, so that each is used again.
Sm90Case CaseFor(Needs needs, int rows) {
  Sm90Case c{.n = 130, .k = 1000, .rows = rows, .multiprocessors = 1};
  if (needs == Needs::kCopiedRows) c.indexed = true;
  if (needs == Needs::kGroups) c.group_rows = {rows / 2, rows - rows / 2};
  if (needs == Needs::kPairs) c = {.n = 100, .k = 600, .rows = rows, .multiprocessors = 2};
  return c;
}

TEST_P(CudaGemmSm90Controls, AreReported) {
  constexpr uint64_t kSeeds = 5;
  const Control& control = GetParam();
  const std::vector<int> both_orientations{5, 66};
  for (const int rows :
       control.needs == Needs::kPairs ? std::vector<int>{130} : both_orientations) {
    const Sm90Case c = CaseFor(control.needs, rows);
    Random random(1);
    const Sm90Inputs inputs(random, c);
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      emulation::Options options = emulation::OptionsFromEnvironment();
      options.seed = seed;
      emulation::SetOptions(options);
      std::string report;
      if (seed == 1) {
        Multiply(c, inputs, cuda::LaunchGemmSm90, &report);
        EXPECT_EQ(report, "") << "without the bug";
      }
      Multiply(c, inputs, control.launch, &report);
      EXPECT_THAT(report, testing::HasSubstr("GemmSm90Kernel")) << rows << " rows, seed " << seed;
      EXPECT_THAT(report, testing::ContainsRegex(control.report)) << rows << " rows, seed " << seed;
    }
  }
}

// Nobody but who compares values sees that chunks lie elsewhere than wgmma reads them.
TEST(CudaGemmSm90Values, AMissingSwizzleIsFound) {
  for (const int rows : {5, 66}) {
    const Sm90Case c = CaseFor(Needs::kCopiedRows, rows);
    Random random(1);
    const Sm90Inputs inputs(random, c);
    const std::vector<double> expected = Formula(c, inputs);
    constexpr double kTolerance = 0.05;
    EXPECT_LE(WorstError(Multiply(c, inputs, cuda::LaunchGemmSm90), expected), kTolerance);
    std::string report;
    const std::vector<float> wrong =
        Multiply(c, inputs, cuda::sm90_no_swizzle::LaunchGemmSm90, &report);
    EXPECT_EQ(report, "");
    EXPECT_GT(WorstError(wrong, expected), kTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Bugs, CudaGemmSm90Controls,
    testing::Values(Control{"ProducerParity", cuda::sm90_producer_parity::LaunchGemmSm90,
                            Needs::kAnyRows, "deadlock"},
                    Control{"ConsumerParity", cuda::sm90_consumer_parity::LaunchGemmSm90,
                            Needs::kAnyRows, "shared offset"},
                    Control{"ReleasedTooEarly", cuda::sm90_released_too_early::LaunchGemmSm90,
                            Needs::kAnyRows, "race on shared"},
                    Control{"NoWgmmaFence", cuda::sm90_no_wgmma_fence::LaunchGemmSm90,
                            Needs::kAnyRows, "without wgmma.fence"},
                    Control{"NoInitFence", cuda::sm90_no_init_fence::LaunchGemmSm90,
                            Needs::kAnyRows, "without a fence behind its mbarrier.init"},
                    Control{"NoProxyFence", cuda::sm90_no_proxy_fence::LaunchGemmSm90,
                            Needs::kCopiedRows, "fence.proxy.async"},
                    Control{"NoMapFence", cuda::sm90_no_map_fence::LaunchGemmSm90, Needs::kGroups,
                            "without fence.proxy.tensormap"},
                    Control{"PairBeginsApart", cuda::sm90_pair_begins_apart::LaunchGemmSm90,
                            Needs::kPairs, "mbarrier"},
                    Control{"PairEndsApart", cuda::sm90_pair_ends_apart::LaunchGemmSm90,
                            Needs::kPairs, "has arrived at its mbarrier|a block that has ended"},
                    Control{"PairNotAsked", cuda::sm90_pair_not_asked::LaunchGemmSm90,
                            Needs::kPairs, "race on shared"},
                    Control{"CopiesTooEarly", cuda::sm90_copies_too_early::LaunchGemmSm90,
                            Needs::kCopiedRows, "shared offset"}),
    [](const auto& test_case) { return std::string(test_case.param.name); });

}  // namespace
}  // namespace tessera::test
