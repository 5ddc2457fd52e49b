// Layouts of emulated GPUs, through the engine: in float32 the tokens of one rank of the cpu
// backend, in bfloat16 the same bits alone and in a crowd.
//
// A step of eight emulated GPUs takes a second: few requests, short answers. Still a prefix is
// found and steps mix prompts with answers. Kernels that wait for each other cost the emulator
// much: most groups of eight exchange by NCCL, as if their GPUs did not reach each other.
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/fake/machine_faults.h"
#include "tests/engine/executor/workload.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr int32_t kRequests = 4;  // greedy, seeded; two with a common prefix
constexpr int32_t kTokens = 3;
constexpr Load kCrowd = {
    .num_blocks = kAmpleBlocks, .max_num_seqs = 2, .requests = kRequests, .tokens = kTokens};
constexpr Load kOneByOne = {.num_blocks = kAmpleBlocks,
                            .max_num_seqs = 1,
                            .prefix_cache = false,
                            .at_a_time = 1,
                            .requests = kRequests,
                            .tokens = kTokens};

ModelOptions OnGpus(const std::string& model, const LayoutOptions& layout, DType dtype) {
  return {.model_dir = model == "nano" ? TESSERA_NANO_MODEL : ReferenceModelDir(model),
          .backend = "cuda-emulated",
          .dtype = dtype,
          .num_threads = 1,
          .layout = layout};
}

struct Case {
  std::string model;
  LayoutOptions layout;
  Load load = kCrowd;
  bool peers = true;  // GPUs reach each other's memory
};

std::string NameOf(const testing::TestParamInfo<Case>& param_info) {
  const LayoutOptions& layout = param_info.param.layout;
  return absl::StrCat(param_info.param.model, "_tp", layout.tensor_parallel, "_dp",
                      layout.data_parallel, layout.expert_parallel ? "_ep_" : "_", layout.moe_comm,
                      param_info.param.peers ? "" : "_nccl");
}

class OnGpusOfACase : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { simt::fake::SetFaults({.peer_access = GetParam().peers}); }
  void TearDown() override { simt::fake::SetFaults({}); }
};

class Float32OnGpus : public OnGpusOfACase {};

TEST_P(Float32OnGpus, HasTheTokensOfOneCpu) {
  const auto& [model, layout, load, peers] = GetParam();
  ModelOptions options = OnGpus(model, layout, DType::kF32);
  const auto gpus = RunWorkload(options, load);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  options.backend = "cpu";
  options.layout = {};
  Load alone = kOneByOne;
  alone.requests = load.requests;
  alone.tokens = load.tokens;
  const auto cpu = RunWorkload(options, alone);
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  EXPECT_EQ(gpus->tokens(), cpu->tokens());
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

constexpr bool kByNccl = false;  // peers
constexpr Load kOneRequest = {.num_blocks = kAmpleBlocks, .requests = 1, .tokens = 2};

INSTANTIATE_TEST_SUITE_P(
    All, Float32OnGpus,
    testing::Values(Case{"dense", {1, 1, false, "auto"}}, Case{"dense", {2, 1, false, "auto"}},
                    Case{"dense", {2, 4, false, "auto"}, kCrowd, kByNccl},
                    Case{"moe", {2, 1, false, "auto"}}, Case{"moe", {2, 1, true, "allreduce"}},
                    Case{"moe", {1, 2, true, "alltoall"}},
                    Case{"moe", {2, 4, true, "alltoall"}, kCrowd, kByNccl},
                    Case{"moe", {2, 4, true, "allreduce"}, kCrowd, kByNccl},
                    Case{"moe", {1, 8, true, "alltoall"}},
                    // 4 KV heads, each of them on two GPUs.
                    Case{"nano", {8, 1, true, "allreduce"}, kOneRequest, kByNccl}),
    NameOf);

// Each group's next request finds the prefix of its first one.
constexpr Load kOnePerGroup = {
    .num_blocks = kAmpleBlocks, .max_num_seqs = 1, .requests = kRequests, .tokens = kTokens};

class BFloat16OnGpus : public OnGpusOfACase {};

TEST_P(BFloat16OnGpus, HasTheSameBitsAloneAndInACrowd) {
  const auto& [model, layout, load, peers] = GetParam();
  const ModelOptions options = OnGpus(model, layout, DType::kBF16);
  const auto crowd = RunWorkload(options, load);
  ASSERT_TRUE(crowd.ok()) << crowd.status();
  const auto alone = RunWorkload(options, kOneByOne);
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ(crowd->replies, alone->replies);
  EXPECT_GT(crowd->stats.prefix_cache_hits, 0);
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

INSTANTIATE_TEST_SUITE_P(All, BFloat16OnGpus,
                         testing::Values(Case{"moe", {2, 1, true, "allreduce"}},
                                         Case{"moe", {1, 2, true, "alltoall"}, kOnePerGroup}),
                         NameOf);

}  // namespace
}  // namespace tessera
