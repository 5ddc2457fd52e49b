#include "engine/kv_preparation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "engine/executor/step_plan_codec.h"
#include "engine/scheduler/largest_step.h"

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kBlockBytes = 1000;
constexpr int64_t kWeights = 300'000;
constexpr int64_t kOfSteps = 50'000;  // what steps take when they run
constexpr int64_t kTotal = 1'000'000;

// A rank on a GPU whose steps take memory that nothing tells beforehand.
class GpuExecutor final : public Executor {
 public:
  explicit GpuExecutor(int64_t total = kTotal) : total_(total) {}

  MemoryReport memory() const override {
    return {.weight_bytes = kWeights,
            .kv_block_bytes = kBlockBytes,
            .graph_bytes = graph_bytes,
            .device_bytes = total_,
            .device_free_bytes = Free()};
  }
  GroupFacts facts() const override { return {}; }
  int32_t num_groups() const override { return 1; }
  int32_t max_steps_under_way() const override { return 1; }
  absl::Status AllocateKv(int32_t num_blocks) override {
    ++final_allocations;
    return AllocateTrialKv(num_blocks);
  }
  absl::Status AllocateTrialKv(int32_t num_blocks) override {
    allocated.push_back(num_blocks);
    kv_bytes_ = 0;
    if (num_blocks * kBlockBytes > Free()) return absl::ResourceExhaustedError("the GPU is full");
    kv_bytes_ = num_blocks * kBlockBytes;
    return absl::OkStatus();
  }
  void Submit(StepPlan plan) override {
    plans.push_back(std::move(plan));
    step_bytes_ = kOfSteps;
  }
  absl::StatusOr<StepResult> Wait() override {
    return step_status.ok() ? StepResult() : step_status;
  }
  void Abort(absl::Status) override {}
  absl::Status Shutdown(absl::Time) override { return absl::OkStatus(); }

  int64_t graph_bytes = 0;
  int final_allocations = 0;
  std::vector<int32_t> allocated;
  std::vector<StepPlan> plans;
  absl::StatusOr<StepResult> step_status = StepResult();

 private:
  int64_t Free() const { return total_ - kWeights - step_bytes_ - kv_bytes_; }

  const int64_t total_;
  int64_t step_bytes_ = 0;
  int64_t kv_bytes_ = 0;
};

// Of a model with a context of 4096 tokens.
EngineOptions Options() {
  EngineOptions options;
  options.model.backend = "cuda";
  options.scheduler.block_size = 16;
  options.scheduler.max_num_seqs = 4;
  options.scheduler.max_num_batched_tokens = 50;
  return options;
}

ModelConfig Config() {
  ModelConfig config;
  config.max_position_embeddings = 4096;
  return config;
}

TEST(KvPreparation, TakesWhatTheLargestStepLeavesOfTheShare) {
  GpuExecutor executor;
  const auto sizing = PrepareKv(Options(), Config(), executor);
  ASSERT_TRUE(sizing.ok()) << sizing.status();
  ASSERT_EQ(executor.plans.size(), 1);
  EXPECT_EQ(executor.plans[0].groups[0].num_tokens(), 50);
  EXPECT_EQ(sizing->num_blocks, (900'000 - kWeights - kOfSteps) / kBlockBytes);
  EXPECT_EQ(executor.allocated.back(), sizing->num_blocks);
  EXPECT_EQ(executor.allocated.size(), 3U);
  EXPECT_EQ(executor.final_allocations, 1);
  // The blocks of the step were given back first.
  EXPECT_EQ(executor.memory().device_free_bytes, kTotal / 10);
}

TEST(KvPreparation, LeavesRoomForGraphs) {
  GpuExecutor executor;
  executor.graph_bytes = 7 * kBlockBytes;
  const auto sizing = PrepareKv(Options(), Config(), executor);
  ASSERT_TRUE(sizing.ok()) << sizing.status();
  EXPECT_EQ(sizing->num_blocks, (900'000 - kWeights - kOfSteps) / kBlockBytes - 7);
}

TEST(KvPreparation, TheShareCanBeChosen) {
  GpuExecutor executor;
  EngineOptions options = Options();
  options.gpu_memory_utilization = 0.5;
  EXPECT_EQ(PrepareKv(options, Config(), executor)->num_blocks, 150);
  for (const double wrong : {0.0, -1.0, 1.01, std::nan("")}) {
    options.gpu_memory_utilization = wrong;
    const auto refused = PrepareKv(options, Config(), executor);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_THAT(refused.status().message(), HasSubstr("--gpu-memory-utilization"));
  }
}

TEST(KvPreparation, RunsNoStepForACacheOfAGivenSize) {
  GpuExecutor executor;
  EngineOptions options = Options();
  options.kv_cache_bytes = 20 * kBlockBytes;
  EXPECT_EQ(PrepareKv(options, Config(), executor)->num_blocks, 20);
  EXPECT_TRUE(executor.plans.empty());
  EXPECT_EQ(executor.allocated, std::vector<int32_t>({20}));
}

TEST(KvPreparation, SizesEmulatedGpusLikeCpusUnlessAShareIsAskedFor) {
  GpuExecutor executor;
  EngineOptions options = Options();
  options.model.backend = "ref";  // also one whose devices use the host's memory
  EXPECT_EQ(PrepareKv(options, Config(), executor)->num_blocks, (kTotal - kWeights) / 4000);
  EXPECT_TRUE(executor.plans.empty());
  options.gpu_memory_utilization = 0.9;
  EXPECT_EQ(PrepareKv(options, Config(), executor)->num_blocks, 550);
}

TEST(KvPreparation, SaysWhatWouldFit) {
  GpuExecutor executor;
  EngineOptions options = Options();
  options.gpu_memory_utilization = 0.4;
  options.model.max_model_len = 2000;
  const auto too_long = PrepareKv(options, Config(), executor);
  EXPECT_EQ(too_long.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      std::string(too_long.status().message()),
      AllOf(HasSubstr("50000 bytes"), HasSubstr("125000 bytes"),
            HasSubstr("--max-model-len 800 would fit"), HasSubstr("--tensor-parallel-size")));

  options.gpu_memory_utilization = 0.3;
  const auto full = PrepareKv(options, Config(), executor);
  EXPECT_EQ(full.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.status().message()),
              AllOf(HasSubstr("350000 of its 1000000 bytes"), HasSubstr("0.3 allows"),
                    HasSubstr("--tensor-parallel-size")));
}

TEST(KvPreparation, SaysWhenNotEvenTheLargestStepHasRoom) {
  GpuExecutor executor(kWeights + kBlockBytes);
  const auto refused = PrepareKv(Options(), Config(), executor);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("the GPU is full"), HasSubstr("--max-num-batched-tokens (50)")));
}

TEST(KvPreparation, ReturnsTheErrorOfTheStep) {
  GpuExecutor executor;
  executor.step_status = absl::UnavailableError("a rank is lost");
  EXPECT_EQ(PrepareKv(Options(), Config(), executor).status(),
            absl::UnavailableError("a rank is lost"));
}

TEST(LargestStep, IsAsLargeAsStepsCanBe) {
  for (const StepSize size : {StepSize{.num_groups = 1,
                             .max_tokens = 50,
                             .max_num_seqs = 4,
                             .max_positions = 4096,
                             .block_size = 16},
                              StepSize{.num_groups = 2,
                              .max_tokens = 7,
                              .max_num_seqs = 64,
                              .max_positions = 9,
                              .block_size = 4},
                              StepSize{.num_groups = 3,
                              .max_tokens = 64,
                              .max_num_seqs = 2,
                              .max_positions = 10,
                              .block_size = 16}}) {
    const StepPlan plan = LargestStep(size);
    const PlanLimits limits{.num_groups = size.num_groups,
                            .num_ranks = size.num_groups,
                            .vocab_size = 1,
                            .block_size = size.block_size,
                            .num_blocks = NumBlocks(size),
                            .max_tokens = size.max_tokens,
                            .max_num_seqs = size.max_num_seqs,
                            .max_positions = size.max_positions};
    const absl::Status valid = ValidateStepPlan(plan, limits);
    EXPECT_TRUE(valid.ok()) << valid;
    for (const BatchPlan& group : plan.groups) {
      EXPECT_EQ(group.num_sequences(), std::min(size.max_num_seqs, size.max_tokens));
      EXPECT_EQ(group.num_tokens(),
                std::min(size.max_tokens, group.num_sequences() * size.max_positions));
      EXPECT_EQ(group.num_logits(), group.num_sequences());
      EXPECT_EQ(group.max_blocks, limits.max_blocks_per_sequence());
      std::vector<int32_t> slots = group.slot_mapping;
      std::sort(slots.begin(), slots.end());
      EXPECT_EQ(std::adjacent_find(slots.begin(), slots.end()), slots.end());
    }
  }
}

}  // namespace
}  // namespace tessera
