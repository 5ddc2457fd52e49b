#include "engine/executor/plan_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "engine/executor/step_plan_codec.h"
#include "engine/scheduler/scheduler.h"
#include "engine/types.h"
#include "tests/engine/executor/full_plan.h"

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int32_t kRealVocab = 151'936;

constexpr PlanLimits kLimits{.num_groups = 2,
                             .num_ranks = 2,
                             .vocab_size = kRealVocab,
                             .block_size = 16,
                             .num_blocks = 7,
                             .max_tokens = 12,
                             .max_num_seqs = 6,
                             .max_positions = 70};

TEST(PlanLimits, APlanAtTheLimitsHasExactlyTheLargestSize) {
  StepPlan plan{.step_id = 7, .groups = {FullGroup(kLimits), FullGroup(kLimits)}};
  const std::string bytes = EncodeStepPlan(plan);
  EXPECT_EQ(std::ssize(bytes), LargestStepPlanBytes(kLimits));
  EXPECT_TRUE(CheckStepPlanBytes(7, std::ssize(bytes), kLimits).ok());
  const auto decoded = DecodeStepPlan(bytes, kLimits);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(EncodeStepPlan(*decoded), bytes);
}

// One more of anything than the limits allow.
TEST(PlanLimits, APlanBeyondAnyLimitIsRefused) {
  const StepPlan plan{.step_id = 7, .groups = {FullGroup(kLimits), FullGroup(kLimits)}};
  const std::function<void(PlanLimits*)> less[] = {
      [](PlanLimits* l) { --l->num_groups; },   [](PlanLimits* l) { l->vocab_size -= 32; },
      [](PlanLimits* l) { --l->num_blocks; },   [](PlanLimits* l) { --l->max_tokens; },
      [](PlanLimits* l) { --l->max_num_seqs; }, [](PlanLimits* l) { --l->max_positions; },
  };
  for (size_t i = 0; i < std::size(less); ++i) {
    PlanLimits limits = kLimits;
    less[i](&limits);
    EXPECT_EQ(ValidateStepPlan(plan, limits).code(), absl::StatusCode::kInvalidArgument) << i;
  }
}

TEST(PlanLimits, OversizedPlansAreNamedWithTheirSizes) {
  const int64_t largest = LargestStepPlanBytes(kLimits);
  const absl::Status status = CheckStepPlanBytes(9, largest + 1, kLimits);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("step 9"), HasSubstr(std::to_string(largest + 1) + " bytes"),
                    HasSubstr(std::to_string(largest))));
}

TEST(PlanLimits, LimitsThatNoMessageHoldsAreRefusedInAnOperatorsWords) {
  PlanLimits limits = kLimits;
  EXPECT_TRUE(CheckPlansFit(limits, LargestStepPlanBytes(limits)).ok());
  const absl::Status status = CheckPlansFit(limits, LargestStepPlanBytes(limits) - 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--max-num-seqs (6)"));
  limits = {.num_groups = 1 << 24,
            .vocab_size = std::numeric_limits<int32_t>::max(),
            .block_size = 1,
            .max_tokens = std::numeric_limits<int32_t>::max(),
            .max_num_seqs = 1 << 24,
            .max_positions = std::numeric_limits<int32_t>::max()};
  EXPECT_EQ(LargestStepPlanBytes(limits), std::numeric_limits<int64_t>::max());
}

// What a hostile client can ask for: every list full, every set of allowed tokens another.
std::shared_ptr<GenerateRequest> GreedyForBytes(int32_t i) {
  auto request = std::make_shared<GenerateRequest>();
  request->prompt_ids.resize(400);
  std::iota(request->prompt_ids.begin(), request->prompt_ids.end(), 1000 * i);
  request->stopping.max_tokens = 64;
  request->stopping.min_tokens = 64;
  request->sampling.repetition_penalty = 1.1F;
  for (int32_t k = 0; k < kMaxLogitBias; ++k) {
    request->sampling.logit_bias.emplace_back(k, 1.0F);
    request->sampling.bad_words.push_back({kRealVocab - 1 - k});
    request->sampling.allowed_token_ids.push_back((i * 7919 + k * 131) % kRealVocab);
  }
  return request;
}

TEST(PlanLimits, FourteenRequestsWithSixteenChoicesStayFarBelowTheBound) {
  SchedulerOptions options;
  options.max_num_seqs = 256;
  options.num_blocks = 8192;
  options.max_model_len = 40'960;
  options.vocab_size = kRealVocab;
  Scheduler scheduler(options, BlockHash{});
  std::vector<int32_t> stop_ids(kMaxStopIds + kMaxEosIds);
  std::iota(stop_ids.begin(), stop_ids.end(), 5000);
  for (int32_t i = 0; i < 14; ++i) {
    const auto request = GreedyForBytes(i);
    const auto mask = MaskOf(request->sampling, kRealVocab);
    for (int32_t choice = 0; choice < 16; ++choice) {
      scheduler.Add(std::make_unique<Sequence>(
          SequenceInit{.id = static_cast<SequenceId>(i * 16 + choice + 1),
                       .request = request,
                       .stop_ids = stop_ids,
                       .mask = mask},
          options.max_model_len));
    }
  }
  const PlanLimits limits{.num_groups = 1,
                          .num_ranks = 1,
                          .vocab_size = kRealVocab,
                          .block_size = options.block_size,
                          .num_blocks = options.num_blocks,
                          .max_tokens = options.max_num_batched_tokens,
                          .max_num_seqs = options.max_num_seqs,
                          .max_positions = options.max_model_len};
  int64_t largest = 0;
  size_t most_masks = 0;
  int32_t most_rows = 0;
  for (int32_t step = 0; step < 80 && !scheduler.idle(); ++step) {
    StepPlan plan{.step_id = static_cast<uint64_t>(step)};
    plan.groups.push_back(scheduler.Schedule(absl::UnixEpoch()).plan);
    const std::string bytes = EncodeStepPlan(plan);
    largest = std::max(largest, std::ssize(bytes));
    const auto decoded = DecodeStepPlan(bytes, limits);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    const SamplingPlan& sampling = plan.groups[0].sampling;
    most_masks = std::max<size_t>(most_masks, sampling.num_masks);
    most_rows = std::max(most_rows, plan.groups[0].num_logits());
    BatchResult result;
    result.token.assign(sampling.forced.size(), 9);
    scheduler.Apply(result);
  }
  EXPECT_EQ(most_rows, 224);
  EXPECT_EQ(most_masks, 14U) << "one for each request";
  EXPECT_LE(largest, LargestStepPlanBytes(limits));
  EXPECT_LT(LargestStepPlanBytes(limits), int64_t{20} << 20);
  std::printf("largest plan: %lld bytes; the bound: %lld\n", static_cast<long long>(largest),
              static_cast<long long>(LargestStepPlanBytes(limits)));
}

}  // namespace
}  // namespace tessera
