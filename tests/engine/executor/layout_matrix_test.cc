// The tokens of every layout of in-process ranks equal those of one rank that answers one request
// after the other: greedy and seeded, in mixed batches, with preemptions and prefix hits. In
// bfloat16 this holds on each layout for itself, down to the log-probabilities.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/model_config.h"
#include "tests/engine/executor/workload.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

// `num_threads`: 0 for one per core.
absl::StatusOr<Outcome> Answers(const std::string& dir, const LayoutOptions& layout,
                                const Load& load, int32_t num_threads = 1) {
  return RunWorkload({.model_dir = dir,
                      .backend = "cpu",
                      .dtype = DType::kF32,
                      .num_threads = num_threads,
                      .layout = layout},
                     load);
}

std::string NameOf(const LayoutOptions& layout) {
  return absl::StrCat("TP", layout.tensor_parallel, " x DP", layout.data_parallel,
                      layout.expert_parallel ? " EP " : " ", layout.moe_comm);
}

std::vector<LayoutOptions> Layouts(bool has_experts) {
  std::vector<LayoutOptions> layouts = {
      {1, 1, false, "auto"}, {2, 1, false, "auto"}, {4, 1, false, "auto"}, {8, 1, false, "auto"},
      {2, 2, false, "auto"}, {2, 4, false, "auto"}, {1, 8, false, "auto"}};
  if (!has_experts) return layouts;
  for (const char* comm : {"allreduce", "alltoall", "auto"}) {
    for (const auto& [tp, dp] :
         std::vector<std::pair<int32_t, int32_t>>{{2, 1}, {4, 1}, {8, 1}, {2, 2}, {2, 4}, {1, 8}}) {
      layouts.push_back({tp, dp, true, comm});
    }
  }
  return layouts;
}

// The tiny checkpoints have 4 query heads; nano has 8, and 4 KV heads that TP8 replicates.
bool IsRefused(const std::string& model, const LayoutOptions& layout) {
  return model != "nano" && layout.tensor_parallel == 8;
}

std::string DirOf(const std::string& model) {
  return model == "nano" ? TESSERA_NANO_MODEL : ReferenceModelDir(model);
}

std::vector<std::string> Models() {
  std::vector<std::string> models = ReferenceModels();
  models.emplace_back("nano");
  return models;
}

class LayoutMatrix : public testing::TestWithParam<std::string> {};

TEST_P(LayoutMatrix, EveryLayoutWritesTheTokensOfOneRank) {
  const std::string dir = DirOf(GetParam());
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(dir);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto expected = Answers(dir, {}, kAlone);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_EQ(expected->replies.size(), kWorkloadRequests);
  EXPECT_EQ(expected->stats.num_preemptions, 0);
  EXPECT_EQ(expected->stats.prefix_cache_hits, 0);
  // Texts that say the same whatever is computed would equal each other on any layout.
  const auto expected_tokens = expected->tokens();
  const std::set different(expected_tokens.begin(), expected_tokens.end());
  EXPECT_EQ(different.size(), kWorkloadRequests);
  // By turns all ranks share one thread, or have what the machine has.
  int32_t num_threads = 1;
  for (const LayoutOptions& layout : Layouts(config->num_experts > 0)) {
    num_threads = 1 - num_threads;
    SCOPED_TRACE(absl::StrCat(NameOf(layout), ", threads ", num_threads));
    const auto outcome = Answers(dir, layout, {}, num_threads);
    if (IsRefused(GetParam(), layout)) {
      EXPECT_EQ(outcome.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(
          std::string(outcome.status().message()),
          testing::AllOf(testing::HasSubstr("tensor parallel size 8"),
                         testing::HasSubstr("4 query heads"), testing::HasSubstr(": 1, 2, 4")));
      continue;
    }
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(outcome->tokens(), expected_tokens);
    EXPECT_GT(outcome->stats.num_preemptions, 0);
    EXPECT_GT(outcome->stats.prefix_cache_hits, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LayoutMatrix, testing::ValuesIn(Models()),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// Whether the next step begins before or after the results of this one are known: the same bits,
// with preemptions, prefix hits and several choices.
TEST(StepsUnderWay, TokensDoNotDependOnTheirNumber) {
  const LayoutOptions layouts[] = {
      {}, {.tensor_parallel = 2}, {2, 2, true, "alltoall"}, {1, 2, false, "allreduce"}};
  for (const char* backend : {"queued", "cpu"}) {
    for (const LayoutOptions& layout : layouts) {
      SCOPED_TRACE(
          absl::StrCat(backend, " tp ", layout.tensor_parallel, " dp ", layout.data_parallel));
      ModelOptions model{.model_dir = DirOf("moe"),
                         .backend = backend,
                         .dtype = DType::kF32,
                         .num_threads = 1,
                         .steps_under_way = 1,
                         .layout = layout};
      const auto one = RunWorkload(model, {});
      ASSERT_TRUE(one.ok()) << one.status();
      model.steps_under_way = 2;
      const auto two = RunWorkload(model, {});
      ASSERT_TRUE(two.ok()) << two.status();
      EXPECT_EQ(one->replies, two->replies);
      EXPECT_GT(two->stats.num_preemptions, 0);
      EXPECT_GT(two->stats.prefix_cache_hits, 0);
    }
  }
}

// The queued device runs the operations of ref, but pads its steps: rows that pad change nothing.
TEST(PaddedSteps, GiveTheSameBits) {
  for (const char* name : {"dense", "moe"}) {
    SCOPED_TRACE(name);
    ModelOptions model{.model_dir = DirOf(name), .backend = "ref", .dtype = DType::kF32};
    const auto exact = RunWorkload(model, {});
    ASSERT_TRUE(exact.ok()) << exact.status();
    model.backend = "queued";
    const auto padded = RunWorkload(model, {});
    ASSERT_TRUE(padded.ok()) << padded.status();
    EXPECT_EQ(exact->replies, padded->replies);
  }
}

struct BFloat16Case {
  std::string model;
  LayoutOptions layout;
};

class BFloat16Layouts : public testing::TestWithParam<BFloat16Case> {};

// In bfloat16 layouts differ by rounding; on one layout a request has the same bits in any company.
// Where there is a choice the mode is named: two engines may choose differently.
TEST_P(BFloat16Layouts, AloneAndInACrowdTheBitsAreTheSame) {
  for (const char* backend : {"queued", "cpu"}) {
    SCOPED_TRACE(backend);
    const ModelOptions model{.model_dir = DirOf(GetParam().model),
                             .backend = backend,
                             .dtype = DType::kBF16,
                             .num_threads = 1,
                             .layout = GetParam().layout};
    const auto alone = RunWorkload(model, kAlone);
    ASSERT_TRUE(alone.ok()) << alone.status();
    const auto crowd = RunWorkload(model, {});
    ASSERT_TRUE(crowd.ok()) << crowd.status();
    EXPECT_EQ(crowd->tokens(), alone->tokens());
    EXPECT_EQ(crowd->replies, alone->replies) << "log-probabilities differ";
    EXPECT_GT(crowd->stats.num_preemptions, 0);
    EXPECT_GT(crowd->stats.prefix_cache_hits, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Some, BFloat16Layouts,
                         testing::Values(BFloat16Case{"dense", {1, 1, false, "auto"}},
                                         BFloat16Case{"dense", {4, 1, false, "auto"}},
                                         BFloat16Case{"moe", {2, 2, false, "auto"}},
                                         BFloat16Case{"moe", {2, 2, true, "allreduce"}},
                                         BFloat16Case{"moe", {2, 2, true, "alltoall"}},
                                         BFloat16Case{"moe", {1, 4, true, "allreduce"}},
                                         BFloat16Case{"moe", {1, 4, true, "alltoall"}}),
                         [](const auto& param_info) {
                           const LayoutOptions& layout = param_info.param.layout;
                           return absl::StrCat(param_info.param.model, "_tp",
                                               layout.tensor_parallel, "_dp", layout.data_parallel,
                                               layout.expert_parallel ? "_ep_" : "_",
                                               layout.moe_comm);
                         });

struct Refusal {
  LayoutOptions layout;
  std::vector<std::string> message;  // parts of it
};

TEST(LayoutRefusal, NamesTheSizesOfNanoThatWork) {
  const std::vector<Refusal> refusals = {
      {{3, 1, false, "auto"}, {"tensor parallel size 3", "8 query heads", ": 1, 2, 4, 8"}},
      {{16, 1, false, "auto"}, {"tensor parallel size 16", "8 query heads", ": 1, 2, 4, 8"}},
      {{1, 3, true, "auto"}, {"3 ranks", "16 experts", "tensor parallel 1: 1, 2, 4, 8, 16"}},
      {{2, 16, true, "auto"}, {"32 ranks", "16 experts", "tensor parallel 2: 1, 2, 4, 8"}},
      {{2, 1, false, "alltoall"}, {"--enable-expert-parallel"}},
      {{2, 1, true, "carrier pigeon"}, {"auto, allreduce or alltoall"}},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(NameOf(refusal.layout));
    const absl::Status status = Answers(TESSERA_NANO_MODEL, refusal.layout, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    for (const std::string& part : refusal.message) {
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
    }
  }
}

}  // namespace
}  // namespace tessera
