// A placement of experts on ranks, proposed from measured loads.
#ifndef TESSERA_ENGINE_PLANNING_EXPERT_PLAN_H_
#define TESSERA_ENGINE_PLANNING_EXPERT_PLAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/expert_loads.h"
#include "engine/model/model_config.h"

namespace tessera {

// How often each expert was chosen: [layers][experts]; empty for dense layers.
using ExpertCounts = std::vector<std::vector<double>>;

// {"layers": [[count per expert], ...]}: one list per layer of the model, an empty one for a dense
// layer. INVALID_ARGUMENT names the source and the layer. source: the file name for messages.
absl::StatusOr<ExpertCounts> ParseExpertCounts(std::string_view json, std::string_view source,
                                               const ModelConfig& config);
absl::StatusOr<ExpertCounts> LoadExpertCounts(const std::string& path, const ModelConfig& config);

// The same text for counts that were measured.
std::string FormatExpertCounts(const ExpertLoads& loads);

struct LayerPlacement {
  int32_t layer = 0;
  // Load of the busiest rank over the mean: 1 is perfect. Replicas share an expert's load evenly.
  double ratio_before = 1;  // experts in order, no replicas
  double ratio_after = 1;
  std::vector<int32_t> slot_experts;  // the proposal: expert of slot s, which is on rank
                                      // s / slots_per_rank; -1 = unused
};

struct ExpertPlan {
  int32_t num_ranks = 1;
  int32_t slots_per_rank = 0;
  std::vector<LayerPlacement> layers;  // MoE layers only
  // Largest ratio of all layers: a step is as slow as its busiest rank.
  double worst_before = 1;
  double worst_after = 1;
};

// `replicas_per_rank` slots on every rank are for replicas, behind experts / ranks others.
// INVALID_ARGUMENT for a dense model, ranks that do not divide the experts, or more slots than
// experts on a rank.
absl::StatusOr<ExpertPlan> PlanExperts(const ModelConfig& config, const ExpertCounts& counts,
                                       int32_t num_ranks, int32_t replicas_per_rank);

}  // namespace tessera

#endif  // TESSERA_ENGINE_PLANNING_EXPERT_PLAN_H_
