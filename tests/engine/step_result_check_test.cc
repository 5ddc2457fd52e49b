#include "engine/step_result_check.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace tessera {
namespace {

StepResult GoodResult() {
  StepResult result{.step_id = 7, .groups = std::vector<BatchResult>(2)};
  result.groups[0] = {.token = {1, 2},
                      .logprob = {-1, -2},
                      .rank = {1, 1},
                      .num_top = 1,
                      .top_tokens = {1, 2},
                      .top_logprobs = {-1, -2}};
  return result;
}

TEST(CheckStepResult, AcceptsOnlyTheShapeOfThePlan) {
  StepPlan plan{.step_id = 7, .groups = std::vector<BatchPlan>(2)};
  plan.groups[0].logits_rows = {3, 5};
  const StepShape shape = StepShape::Of(plan);
  EXPECT_TRUE(CheckStepResult(shape, GoodResult()).ok());
  const std::vector<std::function<void(StepResult*)>> faults = {
      [](StepResult* r) { r->step_id = 8; },
      [](StepResult* r) { r->groups.pop_back(); },
      [](StepResult* r) { r->groups[0].token.pop_back(); },
      [](StepResult* r) { r->groups[0].logprob.push_back(0); },
      [](StepResult* r) { r->groups[0].rank.clear(); },
      [](StepResult* r) { r->groups[0].num_top = -1; },
      [](StepResult* r) { r->groups[0].num_top = 2; },
      [](StepResult* r) { r->groups[0].top_logprobs.pop_back(); },
      [](StepResult* r) { r->groups[1].token.push_back(1); },
  };
  for (size_t i = 0; i < faults.size(); ++i) {
    StepResult result = GoodResult();
    faults[i](&result);
    EXPECT_EQ(CheckStepResult(shape, result).code(), absl::StatusCode::kInternal) << i;
  }
}

}  // namespace
}  // namespace tessera
