// A plan as text for people and as JSON for programs.
#ifndef TESSERA_ENGINE_PLANNING_PLAN_REPORT_H_
#define TESSERA_ENGINE_PLANNING_PLAN_REPORT_H_

#include <optional>
#include <string>
#include <vector>

#include "engine/planning/expert_plan.h"
#include "engine/planning/layout_plan.h"

namespace tessera {

struct PlanReport {
  std::string model;  // as the user named it
  PlanRequest request;
  std::vector<LayoutEstimate> layouts;  // best first
  std::optional<ExpertPlan> experts;
};

// One row per layout, then the proposed placement of experts. Ends with a line break.
std::string PlanTable(const PlanReport& report);

// One line:
//   {"model", "gpu", "gpus", "dtype", "goal", "context",
//    "layouts": [{"tensor_parallel", "data_parallel", "expert_parallel", "fits",
//                 "weights_bytes_per_rank", "buffer_bytes_per_rank", "kv_bytes_per_token_per_rank",
//                 "kv_tokens_per_group", "kv_tokens", "max_num_batched_tokens",
//                 "decode_step_ms": {"1", "32", "128"}, "prefill_tokens_per_s",
//                 "comm_bytes_per_layer_per_token", "sequences", "tokens_per_s"}],
//    "expert_placement": {"ranks", "slots_per_rank", "max_over_mean_before", "max_over_mean_after",
//                         "layers": [{"layer", "max_over_mean_before", "max_over_mean_after",
//                                     "slots": [expert of every slot, -1 = unused]}]}}
// The last member is there only with expert loads.
std::string PlanJson(const PlanReport& report);

}  // namespace tessera

#endif  // TESSERA_ENGINE_PLANNING_PLAN_REPORT_H_
