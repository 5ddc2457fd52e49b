#include "engine/planning/layout_plan.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <tuple>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/shard.h"
#include "engine/planning/step_model.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "parallel/topology.h"

namespace tessera {
namespace {

constexpr int32_t kMinBatchedTokens = 64;
constexpr double kMaxBufferShare = 0.1;
constexpr int64_t kMaxSequencesPerGroup = 256;
constexpr int64_t kMaxConfigBytes = 1 << 20;

std::vector<LayoutRequest> LayoutsOf(const ModelConfig& config, int32_t gpus) {
  const ModelShape shape = LayoutShape(config);
  std::vector<LayoutRequest> layouts;
  for (int32_t tp = 1; tp <= gpus; ++tp) {
    if (gpus % tp != 0) continue;
    for (const bool expert_parallel : {false, true}) {
      if (expert_parallel && (shape.experts == 0 || gpus == 1)) continue;
      const LayoutRequest layout{
          .tensor_parallel = tp, .data_parallel = gpus / tp, .expert_parallel = expert_parallel};
      if (ValidateLayout(layout, shape).ok()) layouts.push_back(layout);
    }
  }
  return layouts;
}

absl::Status NoLayout(const ModelConfig& config, int32_t gpus) {
  std::vector<int32_t> counts;
  for (int32_t count = 1; count <= kMaxPlanRanks; ++count) {
    if (!LayoutsOf(config, count).empty()) counts.push_back(count);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("this model cannot be split over ", gpus, " GPUs (", config.num_attention_heads,
                   " query heads, ", config.num_key_value_heads, " KV heads, ", config.num_experts,
                   " experts of width ", config.moe_intermediate_size,
                   "); numbers of GPUs that work: ", absl::StrJoin(counts, ", ")));
}

absl::Status CheckRequest(const ModelConfig& config, const PlanRequest& request) {
  if (request.gpus < 1 || request.gpus > kMaxPlanRanks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a plan is for 1 to ", kMaxPlanRanks, " GPUs, not ", request.gpus));
  }
  if (request.context < 1 || request.context > config.context_limit()) {
    return absl::InvalidArgumentError(absl::StrCat("context ", request.context,
                                                   " is outside the model's 1 to ",
                                                   config.context_limit(), " tokens"));
  }
  if (request.max_batched_tokens < kMinBatchedTokens) {
    return absl::InvalidArgumentError(absl::StrCat("a step of ", request.max_batched_tokens,
                                                   " tokens is too short; at least ",
                                                   kMinBatchedTokens));
  }
  if (!(request.gpu_memory_utilization > 0 && request.gpu_memory_utilization <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("a memory utilization of ",
                                                   request.gpu_memory_utilization,
                                                   " is not above 0 and at most 1"));
  }
  return absl::OkStatus();
}

void EstimateMemory(const ModelConfig& config, const PlanRequest& request, const StepModel& model,
                    LayoutEstimate* estimate) {
  const auto memory = static_cast<double>(request.gpu.memory_bytes);
  ModelShard shard = model.shard();
  if (shard.expert_parallel) shard.expert_slots += request.expert_replicas;
  BufferSizes sizes{.max_tokens = request.max_batched_tokens,
                    .max_positions = config.context_limit(),
                    .max_num_seqs = kMaxSequencesPerGroup};
  while (sizes.max_tokens / 2 >= kMinBatchedTokens &&
         static_cast<double>(BufferBytes(config, shard, sizes)) > kMaxBufferShare * memory) {
    sizes.max_tokens /= 2;
  }
  estimate->max_batched_tokens = static_cast<int32_t>(sizes.max_tokens);
  estimate->buffer_bytes_per_rank = BufferBytes(config, shard, sizes);
  estimate->weights_bytes_per_rank = WeightBytes(config, SliceSizes(config, shard, request.format));
  estimate->kv_bytes_per_token_per_rank = KvBytesPerToken(config, shard);
  const int64_t left = static_cast<int64_t>(memory * request.gpu_memory_utilization) -
                       estimate->weights_bytes_per_rank - estimate->buffer_bytes_per_rank;
  estimate->kv_tokens_per_group =
      std::max<int64_t>(0, left) / estimate->kv_bytes_per_token_per_rank;
  estimate->kv_tokens = estimate->kv_tokens_per_group * estimate->data_parallel;
  estimate->fits = estimate->kv_tokens_per_group >= request.context;
}

void EstimateSpeed(const PlanRequest& request, const StepModel& model, LayoutEstimate* estimate) {
  for (size_t i = 0; i < kPlanBatches.size(); ++i) {
    const StepEstimate step = model.Decode(kPlanBatches[i], request.context);
    estimate->decode_step_ms[i] = step.seconds * 1e3;
    estimate->comm_bytes_per_layer_per_token = step.comm_bytes_per_layer_per_token;
  }
  const StepEstimate prefill = model.Prefill(estimate->max_batched_tokens, request.context);
  const double prefill_tokens =
      static_cast<double>(estimate->max_batched_tokens) * estimate->data_parallel;
  estimate->prefill_tokens_per_s = prefill_tokens / prefill.seconds;
  const int64_t group_sequences =
      std::min(kMaxSequencesPerGroup, estimate->kv_tokens_per_group / request.context);
  estimate->sequences = static_cast<int32_t>(group_sequences * estimate->data_parallel);
  if (estimate->sequences == 0) return;
  const double decode_seconds = model.Decode(estimate->sequences, request.context).seconds;
  estimate->tokens_per_s =
      1 / (decode_seconds / estimate->sequences + 1 / estimate->prefill_tokens_per_s);
}

// Smaller is better. Equal layouts keep the order of enumeration: fewer tensor-parallel ranks
// first.
using Score = std::tuple<int, double, double, double>;
Score ScoreOf(const LayoutEstimate& estimate, PlanGoal goal) {
  if (!estimate.fits) return {1, static_cast<double>(estimate.weights_bytes_per_rank), 0, 0};
  if (goal == PlanGoal::kLatency) {
    return {0, estimate.decode_step_ms[0], estimate.decode_step_ms[1],
            estimate.comm_bytes_per_layer_per_token};
  }
  return {0, -estimate.tokens_per_s, -static_cast<double>(estimate.kv_tokens),
          estimate.comm_bytes_per_layer_per_token};
}

}  // namespace

absl::StatusOr<std::vector<LayoutEstimate>> PlanLayouts(const ModelConfig& config,
                                                        const PlanRequest& request) {
  RETURN_IF_ERROR(CheckRequest(config, request));
  std::vector<LayoutEstimate> estimates;
  for (const LayoutRequest& layout : LayoutsOf(config, request.gpus)) {
    const StepModel model(config, layout, request.gpu, request.format);
    LayoutEstimate estimate{.tensor_parallel = layout.tensor_parallel,
                            .data_parallel = layout.data_parallel,
                            .expert_parallel = layout.expert_parallel};
    EstimateMemory(config, request, model, &estimate);
    EstimateSpeed(request, model, &estimate);
    estimates.push_back(estimate);
  }
  if (estimates.empty()) return NoLayout(config, request.gpus);
  std::stable_sort(estimates.begin(), estimates.end(),
                   [&](const LayoutEstimate& a, const LayoutEstimate& b) {
                     return ScoreOf(a, request.goal) < ScoreOf(b, request.goal);
                   });
  return estimates;
}

std::string_view PlanGoalName(PlanGoal goal) {
  return goal == PlanGoal::kLatency ? "latency" : "throughput";
}

absl::StatusOr<PlanGoal> ParsePlanGoal(std::string_view name) {
  for (const PlanGoal goal : {PlanGoal::kLatency, PlanGoal::kThroughput}) {
    if (name == PlanGoalName(goal)) return goal;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", std::string(name), "\" is no goal; use latency or throughput"));
}

absl::StatusOr<ModelConfig> LoadPlanConfig(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return LoadModelConfig(path);
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  return ParseModelConfig(text, path);
}

}  // namespace tessera
