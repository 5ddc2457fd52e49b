// What a step brought: the groups' results, and what the ranks have to report of it.
#ifndef TESSERA_ENGINE_EXECUTOR_STEP_RESULT_H_
#define TESSERA_ENGINE_EXECUTOR_STEP_RESULT_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/model/expert_loads.h"
#include "engine/scheduler/step_plan.h"
#include "parallel/collective_times.h"

namespace tessera {

// What one rank did in one step.
struct RankReport {
  int32_t rank = 0;
  float step_seconds = 0;  // from the plan to the results
  // The part of it in collective operations, waiting for other ranks included, by CollectiveOp.
  std::array<float, kNumCollectiveOps> collective_seconds{};
  // False: the operations were those of a graph, and what they took is not known.
  bool collectives_timed = true;
  // How long the device waited for the host before the step; 0 for those that execute at once.
  float host_gap_seconds = 0;
  int64_t expert_rows = 0;  // (token, expert) pairs that the rank's experts computed
  int64_t moved_bytes = 0;  // of experts that moved here since the step before
};

struct StepResult {
  uint64_t step_id = 0;
  std::vector<BatchResult> groups;
  std::vector<RankReport> ranks;                    // of all ranks, ascending
  std::shared_ptr<const ExpertLoads> expert_loads;  // in steps that exchanged them
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_STEP_RESULT_H_
