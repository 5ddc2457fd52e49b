// Bugs in copies of attention_sm90.cu (CMakeLists.txt), each of which the emulator must report
// under every seed, or the comparison of values must find; without them it must report nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "kernels/cuda/emulation/emulator.h"
#include "tests/kernels/cuda/attention_case.h"

#define TESSERA_ATTENTION_COPY(name)                                                    \
  namespace tessera::cuda::name {                                                       \
  cudaError_t LaunchAttentionSm90(cudaStream_t stream, const AttentionProblem& problem, \
                                  const AttentionSm90Maps& maps);                       \
  }
TESSERA_ATTENTION_COPY(attention_producer_parity)
TESSERA_ATTENTION_COPY(attention_no_full_wait)
TESSERA_ATTENTION_COPY(attention_released_too_early)
TESSERA_ATTENTION_COPY(attention_no_wgmma_fence)
TESSERA_ATTENTION_COPY(attention_no_wgmma_wait)
TESSERA_ATTENTION_COPY(attention_packed_too_early)
TESSERA_ATTENTION_COPY(attention_no_proxy_fence)
TESSERA_ATTENTION_COPY(attention_queries_no_fence)
TESSERA_ATTENTION_COPY(attention_copies_too_early)
TESSERA_ATTENTION_COPY(attention_whole_edge_pages)
TESSERA_ATTENTION_COPY(attention_next_page)
TESSERA_ATTENTION_COPY(attention_panel_stride)
TESSERA_ATTENTION_COPY(attention_descriptor_step)

namespace tessera::test {
namespace {

namespace emulation = simt::emulation;

struct Control {
  const char* name;
  LaunchAttention launch;
  const char* report;   // a part of it; empty: wrong values
  int block_size = 16;  // 24: pages are copied
};
void PrintTo(const Control& control, std::ostream* out) { *out << control.name; }

class CudaAttentionSm90Controls : public testing::TestWithParam<Control> {
 protected:
  ~CudaAttentionSm90Controls() override {
    emulation::SetOptions(emulation::OptionsFromEnvironment());
  }
};

void UseSeed(uint64_t seed) {
  emulation::Options options = emulation::OptionsFromEnvironment();
  options.seed = seed;
  emulation::SetOptions(options);
}

// More tiles than there are stages, so that each is used again; the last one is not whole.
TEST_P(CudaAttentionSm90Controls, AreFound) {
  constexpr uint64_t kSeeds = 4;
  const Control& control = GetParam();
  const AttentionHeads heads{.group = 2, .dim = 128, .block_size = control.block_size};
  Random random(1);
  const std::vector<AttentionSequence> batch{RandomSequence(random, heads, 300, 2)};
  const std::vector<double> expected = Expected(heads, batch);
  constexpr double kTolerance = 4e-2;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    std::string report;
    AttentionLayout layout{.workspace = false, .sm90 = cuda::LaunchAttentionSm90};
    if (seed == 1) {
      EXPECT_LE(WorstError(Attend(random, heads, batch, layout, &report), expected), kTolerance);
      EXPECT_EQ(report, "") << "without the bug";
    }
    layout.sm90 = control.launch;
    const std::vector<float> out = Attend(random, heads, batch, layout, &report);
    if (*control.report == '\0') {
      EXPECT_EQ(report, "") << "seed " << seed;
      EXPECT_FALSE(WorstError(out, expected) <= kTolerance) << "seed " << seed;
      continue;
    }
    EXPECT_THAT(report, testing::HasSubstr("AttentionSm90Kernel")) << "seed " << seed;
    EXPECT_THAT(report, testing::ContainsRegex(control.report)) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Bugs, CudaAttentionSm90Controls,
    testing::Values(
        Control{"ProducerParity", cuda::attention_producer_parity::LaunchAttentionSm90, "deadlock"},
        Control{"NoFullWait", cuda::attention_no_full_wait::LaunchAttentionSm90, "shared offset"},
        Control{"ReleasedTooEarly", cuda::attention_released_too_early::LaunchAttentionSm90,
                "race on shared"},
        Control{"NoWgmmaFence", cuda::attention_no_wgmma_fence::LaunchAttentionSm90,
                "behind wgmma.fence"},
        Control{"NoWgmmaWait", cuda::attention_no_wgmma_wait::LaunchAttentionSm90, "wgmma"},
        Control{"PackedTooEarly", cuda::attention_packed_too_early::LaunchAttentionSm90,
                "first operand changed while wgmma was in flight"},
        Control{"NoProxyFence", cuda::attention_no_proxy_fence::LaunchAttentionSm90,
                "fence.proxy.async", 24},
        Control{"QueriesNoFence", cuda::attention_queries_no_fence::LaunchAttentionSm90,
                "fence.proxy.async"},
        Control{"CopiesTooEarly", cuda::attention_copies_too_early::LaunchAttentionSm90,
                "shared offset", 24},
        Control{"WholeEdgePages", cuda::attention_whole_edge_pages::LaunchAttentionSm90, ""},
        Control{"NextPage", cuda::attention_next_page::LaunchAttentionSm90, ""},
        Control{"PanelStride", cuda::attention_panel_stride::LaunchAttentionSm90, ""},
        Control{"DescriptorStep", cuda::attention_descriptor_step::LaunchAttentionSm90, ""}),
    [](const auto& test_case) { return std::string(test_case.param.name); });

}  // namespace
}  // namespace tessera::test
