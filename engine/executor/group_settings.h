// How the whole world runs the model: what a head tells its nodes.
#ifndef TESSERA_ENGINE_EXECUTOR_GROUP_SETTINGS_H_
#define TESSERA_ENGINE_EXECUTOR_GROUP_SETTINGS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/executor/plan_limits.h"
#include "engine/model/model_config.h"
#include "engine/model/rank_links.h"
#include "engine/options.h"
#include "kernels/core/dtype.h"
#include "parallel/topology.h"

namespace tessera {

// What a rank needs to know beyond the model.
struct ExecutorLimits {
  int32_t block_size = 16;
  int32_t max_num_batched_tokens = 2048;
  int32_t max_num_seqs = 64;
  int32_t max_model_len = 0;  // 0: the model's context limit
  // A step that takes longer, or a rank that is silent for longer, ends the group.
  absl::Duration step_timeout = absl::Seconds(60);
};

// Whether experts move between ranks, see LayoutOptions; resolved.
struct RebalanceSettings {
  int32_t interval = 0;
  int32_t spare_slots = 0;  // none without an interval
};
// INVALID_ARGUMENT names the option that the layout or the model has no room for.
absl::Status CheckRebalancing(const RebalanceSettings& rebalance, const LayoutRequest& layout,
                              const ModelConfig& config);

// How the whole world runs the model; the same on all nodes.
struct GroupSettings {
  LayoutRequest layout;
  MoeComm moe_comm = MoeComm::kAuto;
  std::string backend = "cpu";
  std::string gemm = "ours";
  DType dtype = DType::kBF16;
  RebalanceSettings rebalance;
  int32_t steps_under_way = 0;  // 0: as many as the backend gains by
  absl::Duration queued_step_delay;
  ExecutorLimits limits;  // max_model_len resolved
};

// Checks the layout against the model. INVALID_ARGUMENT names the option that is wrong.
absl::StatusOr<GroupSettings> MakeGroupSettings(const ModelOptions& options,
                                                const ExecutorLimits& limits, int32_t nodes,
                                                const ModelConfig& config);

// Of the plans that the world runs; num_blocks is not known yet.
PlanLimits PlanLimitsOf(const GroupSettings& settings, const ModelConfig& config);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_GROUP_SETTINGS_H_
