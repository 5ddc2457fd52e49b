#include "engine/executor/group_settings.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/model/shard.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

absl::StatusOr<MoeComm> ParseMoeComm(const std::string& name) {
  if (name == "auto") return MoeComm::kAuto;
  if (name == "allreduce") return MoeComm::kAllReduce;
  if (name == "alltoall") return MoeComm::kAllToAll;
  return absl::InvalidArgumentError(
      absl::StrCat("moe-comm is '", name, "'; it can be auto, allreduce or alltoall"));
}

}  // namespace

absl::Status CheckRebalancing(const RebalanceSettings& rebalance, const LayoutRequest& layout,
                              const ModelConfig& config) {
  if (rebalance.interval == 0) return absl::OkStatus();
  const int32_t ranks = layout.tensor_parallel * layout.data_parallel;
  if (!layout.expert_parallel || ranks == 1 || !config.has_moe_layers()) {
    return absl::InvalidArgumentError(
        "--expert-rebalance-interval needs whole experts on several ranks: an MoE model, "
        "--enable-expert-parallel and a tensor- or data-parallel size above 1");
  }
  const int32_t room = config.num_experts - config.num_experts / ranks;
  if (rebalance.spare_slots >= 1 && rebalance.spare_slots <= room) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--expert-spare-slots is ", rebalance.spare_slots,
                                                 "; with ", config.num_experts, " experts on ",
                                                 ranks, " ranks it can be 1 to ", room));
}

absl::StatusOr<GroupSettings> MakeGroupSettings(const ModelOptions& options,
                                                const ExecutorLimits& limits, int32_t nodes,
                                                const ModelConfig& config) {
  GroupSettings settings{.layout = {.tensor_parallel = options.layout.tensor_parallel,
                                    .data_parallel = options.layout.data_parallel,
                                    .expert_parallel = options.layout.expert_parallel,
                                    .nodes = nodes},
                         .moe_comm = MoeComm::kAuto,
                         .backend = options.backend,
                         .gemm = options.gemm,
                         .dtype = options.dtype,
                         .steps_under_way = options.steps_under_way,
                         .queued_step_delay = options.queued_step_delay,
                         .limits = limits};
  RETURN_IF_ERROR(ValidateLayout(settings.layout, LayoutShape(config)));
  ASSIGN_OR_RETURN(settings.moe_comm, ParseMoeComm(options.layout.moe_comm));
  if (options.layout.expert_rebalance_interval > 0) {
    const int32_t ranks = settings.layout.tensor_parallel * settings.layout.data_parallel;
    const int32_t wanted = options.layout.expert_spare_slots;
    settings.rebalance = {
        .interval = options.layout.expert_rebalance_interval,
        .spare_slots =
            wanted > 0 ? wanted : std::min(2, config.num_experts - config.num_experts / ranks)};
  }
  RETURN_IF_ERROR(CheckRebalancing(settings.rebalance, settings.layout, config));
  // Every sequence has at least one token in the step.
  settings.limits.max_num_seqs = std::min(limits.max_num_seqs, limits.max_num_batched_tokens);
  if (limits.max_model_len <= 0) settings.limits.max_model_len = config.context_limit();
  return settings;
}

PlanLimits PlanLimitsOf(const GroupSettings& settings, const ModelConfig& config) {
  return {.num_groups = settings.layout.data_parallel,
          .num_ranks = settings.layout.tensor_parallel * settings.layout.data_parallel,
          .vocab_size = config.vocab_size,
          .block_size = settings.limits.block_size,
          .max_tokens = settings.limits.max_num_batched_tokens,
          .max_num_seqs = settings.limits.max_num_seqs,
          .max_positions = settings.limits.max_model_len};
}

}  // namespace tessera
