// Which layouts of a model over GPUs exist, which fit, and how fast each would be at best.
#ifndef TESSERA_ENGINE_PLANNING_LAYOUT_PLAN_H_
#define TESSERA_ENGINE_PLANNING_LAYOUT_PLAN_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/planning/gpu_table.h"
#include "engine/planning/memory_model.h"

namespace tessera {

enum class PlanGoal : uint8_t {
  kLatency,     // shortest decode step of one sequence, then of 32
  kThroughput,  // most tokens per second with as many sequences as the KV cache holds
};

inline constexpr int32_t kMaxPlanRanks = 256;
// Sequences per step that decode times are given for.
inline constexpr std::array<int32_t, 3> kPlanBatches = {1, 32, 128};

struct PlanRequest {
  int32_t gpus = 1;  // TP x DP, 1..kMaxPlanRanks
  GpuSpec gpu;
  WeightFormat format = WeightFormat::kBFloat16;
  PlanGoal goal = PlanGoal::kThroughput;
  int32_t context = 4096;  // tokens of every sequence; at most the model's context limit
  // Upper limit for the tokens of one step and group.
  int32_t max_batched_tokens = 4096;
  double gpu_memory_utilization = 0.9;  // share of the memory that may be used, (0, 1]
  // Slots of every rank and MoE layer for copies of experts, in layouts with whole experts: memory
  // counts them as filled, times are those without.
  int32_t expert_replicas = 0;
};

struct LayoutEstimate {
  int32_t tensor_parallel = 1;
  int32_t data_parallel = 1;
  bool expert_parallel = false;

  // Every group can hold at least one sequence of the requested context.
  bool fits = false;
  // Of the rank that holds most. Formulas: memory_model.h.
  int64_t weights_bytes_per_rank = 0;
  int64_t buffer_bytes_per_rank = 0;
  int64_t kv_bytes_per_token_per_rank = 0;
  // (utilization * memory - weights - buffers) / kv_bytes_per_token_per_rank, at least 0.
  int64_t kv_tokens_per_group = 0;
  int64_t kv_tokens = 0;  // of all data-parallel groups together
  // Tokens per step and group: the largest power-of-two fraction of the requested limit whose
  // buffers take at most a tenth of the memory (at least 64).
  int32_t max_batched_tokens = 0;

  // Formulas: step_model.h. Milliseconds for kPlanBatches sequences over all groups, whether or not
  // the KV cache holds so many.
  std::array<double, 3> decode_step_ms{};
  double prefill_tokens_per_s = 0;  // all groups, prompts of the requested context
  // Bytes that one rank sends per layer and token of a decode step of the last batch.
  double comm_bytes_per_layer_per_token = 0;
  // With as many sequences as the KV cache holds (at most 256 per group): tokens per second when
  // one prompt token is read per token written, 1 / (1/decode + 1/prefill).
  int32_t sequences = 0;
  double tokens_per_s = 0;
};

// All layouts of exactly `gpus` ranks that ValidateLayout accepts, best first for the goal; those
// that do not fit come last. INVALID_ARGUMENT when a number of the request is out of range, or when
// no layout exists: the message names the GPU counts that work.
absl::StatusOr<std::vector<LayoutEstimate>> PlanLayouts(const ModelConfig& config,
                                                        const PlanRequest& request);

// "latency", "throughput".
std::string_view PlanGoalName(PlanGoal goal);
absl::StatusOr<PlanGoal> ParsePlanGoal(std::string_view name);

// A folder with config.json, or such a file itself.
absl::StatusOr<ModelConfig> LoadPlanConfig(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_ENGINE_PLANNING_LAYOUT_PLAN_H_
