// Whether an executor's result answers the plan it was given.
#ifndef TESSERA_ENGINE_STEP_RESULT_CHECK_H_
#define TESSERA_ENGINE_STEP_RESULT_CHECK_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/executor/step_result.h"
#include "engine/scheduler/step_plan.h"

namespace tessera {

// What is remembered of a plan after it has been handed over.
struct StepShape {
  uint64_t step_id = 0;
  std::vector<int32_t> num_rows;  // logits rows per group
  std::vector<bool> has_work;     // per group: it has sequences in the step

  static StepShape Of(const StepPlan& plan);
};

// INTERNAL when shapes disagree: results may come from other machines and are not trusted.
absl::Status CheckStepResult(const StepShape& expected, const StepResult& result);

}  // namespace tessera

#endif  // TESSERA_ENGINE_STEP_RESULT_CHECK_H_
