// Step plans and results as bytes, for ranks in other processes.
//
// Flat and little-endian: a tag, then every field in the order of its declaration, arrays as a
// 32-bit count followed by their elements. Both sides run the same version of the program (the
// join handshake compares versions), so the format has no optional parts.
#ifndef TESSERA_ENGINE_EXECUTOR_STEP_PLAN_CODEC_H_
#define TESSERA_ENGINE_EXECUTOR_STEP_PLAN_CODEC_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/executor/plan_limits.h"
#include "engine/executor/step_result.h"
#include "engine/scheduler/step_plan.h"

namespace tessera {

// INVALID_ARGUMENT names the group, the field and the value that breaks a limit.
absl::Status ValidateStepPlan(const StepPlan& plan, const PlanLimits& limits);

std::string EncodeStepPlan(const StepPlan& plan);
// A decoded plan is valid. Memory use is bounded by a small multiple of the input.
absl::StatusOr<StepPlan> DecodeStepPlan(std::string_view bytes, const PlanLimits& limits);

// The groups whose results one node brings: those whose first rank it holds.
struct NodeStepResult {
  uint64_t step_id = 0;
  std::vector<int32_t> group_ids;  // ascending
  std::vector<BatchResult> groups;
  std::vector<RankReport> ranks;  // of the node, ascending
  // Of rank 0, which is always the head's own: it does not travel.
  std::shared_ptr<const ExpertLoads> expert_loads;
};

std::string EncodeNodeStepResult(const NodeStepResult& result);
// Arrays agree in length, tokens lie in the vocabulary, reports are of ranks that exist and their
// numbers are finite and not negative; whether the result answers a plan is
// for the caller to see.
absl::StatusOr<NodeStepResult> DecodeNodeStepResult(std::string_view bytes,
                                                    const PlanLimits& limits);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_STEP_PLAN_CODEC_H_
