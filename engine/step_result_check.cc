#include "engine/step_result_check.h"

#include "absl/strings/str_cat.h"

namespace tessera {

StepShape StepShape::Of(const StepPlan& plan) {
  StepShape shape{.step_id = plan.step_id};
  for (const BatchPlan& group : plan.groups) {
    shape.num_rows.push_back(group.num_logits());
    shape.has_work.push_back(group.num_sequences() > 0);
  }
  return shape;
}

absl::Status CheckStepResult(const StepShape& expected, const StepResult& result) {
  if (result.step_id != expected.step_id || result.groups.size() != expected.num_rows.size()) {
    return absl::InternalError(absl::StrCat("step ", expected.step_id, " was answered by step ",
                                            result.step_id, " with ", result.groups.size(),
                                            " groups"));
  }
  for (size_t g = 0; g < result.groups.size(); ++g) {
    const auto rows = static_cast<size_t>(expected.num_rows[g]);
    const BatchResult& batch = result.groups[g];
    const bool ok = batch.token.size() == rows && batch.logprob.size() == rows &&
                    batch.rank.size() == rows && batch.num_top >= 0 &&
                    batch.top_tokens.size() == rows * static_cast<size_t>(batch.num_top) &&
                    batch.top_logprobs.size() == batch.top_tokens.size();
    if (!ok) {
      return absl::InternalError(absl::StrCat("the result of step ", expected.step_id, ", group ",
                                              g, " does not have ", rows, " rows"));
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera
