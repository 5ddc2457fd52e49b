#include "engine/model/moe.h"

#include <algorithm>
#include <utility>

namespace tessera {

absl::StatusOr<std::unique_ptr<MoeBlock>> MoeBlock::Create(const ModelConfig& config,
                                                           const ModelShard& shard,
                                                           int32_t max_tokens,
                                                           const RankLinks& links, Ops& ops) {
  std::unique_ptr<MoeBlock> block(new MoeBlock(config, shard, links, ops));
  RETURN_IF_ERROR(block->AllocateBuffers(max_tokens));
  return block;
}

MoeBlock::MoeBlock(const ModelConfig& config, const ModelShard& shard, const RankLinks& links,
                   Ops& ops)
    : config_(config),
      shard_(shard),
      links_(links),
      ops_(ops),
      act_(ops.ActivationDType(DType::kF32)) {}

absl::StatusOr<TensorView> MoeBlock::NewBuffer(DType dtype, int64_t rows, int64_t cols,
                                               const char* what) {
  const int64_t bytes = rows * cols * static_cast<int64_t>(SizeOf(dtype));
  ASSIGN_OR_RETURN(DeviceBuffer buffer, ops_.device().Allocate(static_cast<size_t>(bytes), what));
  buffers_.push_back(std::move(buffer));
  buffer_bytes_ += bytes;
  return buffers_.back().View(dtype, {rows, cols});
}

absl::Status MoeBlock::AllocateBuffers(int32_t max_tokens) {
  const int64_t tokens = int64_t{max_tokens} * shard_.dp_size;
  const int64_t k = config_.num_experts_per_tok;
  const int64_t hidden = config_.hidden_size;
  ASSIGN_OR_RETURN(router_logits_,
                   NewBuffer(DType::kF32, tokens, config_.num_experts, "router logits"));
  ASSIGN_OR_RETURN(expert_ids_, NewBuffer(DType::kI32, tokens, k, "expert ids"));
  ASSIGN_OR_RETURN(expert_weights_, NewBuffer(DType::kF32, tokens, k, "expert weights"));
  ASSIGN_OR_RETURN(offsets_,
                   NewBuffer(DType::kI32, shard_.num_experts + 1, 1, "expert row offsets"));
  ASSIGN_OR_RETURN(row_token_, NewBuffer(DType::kI32, tokens * k, 1, "expert row lists"));
  ASSIGN_OR_RETURN(positions_, NewBuffer(DType::kI32, tokens, k, "expert row positions"));
  ASSIGN_OR_RETURN(gate_up_, NewBuffer(act_, tokens * k, 2 * int64_t{shard_.moe_ffn_size},
                                       "expert gate and up"));
  ASSIGN_OR_RETURN(activated_,
                   NewBuffer(act_, tokens * k, shard_.moe_ffn_size, "expert activations"));
  ASSIGN_OR_RETURN(expert_out_, NewBuffer(act_, tokens * k, hidden, "expert outputs"));
  ASSIGN_OR_RETURN(summed_, NewBuffer(act_, tokens, hidden, "summed expert outputs"));
  if (shard_.dp_size > 1) {
    ASSIGN_OR_RETURN(gathered_, NewBuffer(act_, tokens, hidden, "tokens of all groups"));
    no_expert_.assign(max_tokens * k, -1);
  }
  return absl::OkStatus();
}

TensorView MoeBlock::Forward(const MoeWeights& weights, ConstTensorView x,
                             const std::vector<int32_t>& group_tokens) {
  if (shard_.dp_size > 1) return ForwardGroups(weights, x, group_tokens);
  const TensorView out = summed_.Rows(0, x.dim(0));
  if (x.dim(0) == 0) return out;
  Route(weights, x);
  RunLocalExperts(weights, x, out);
  links_.AllReduceTp(out);
  return out;
}

TensorView MoeBlock::ForwardGroups(const MoeWeights& weights, ConstTensorView x,
                                   const std::vector<int32_t>& group_tokens) {
  const int64_t groups = shard_.dp_size;
  const int64_t padded = *std::max_element(group_tokens.begin(), group_tokens.end());
  const int64_t hidden = config_.hidden_size;
  const int64_t k = config_.num_experts_per_tok;
  if (padded == 0) return summed_.Rows(0, 0);
  // Rows beyond a group's tokens are leftovers of earlier steps: they travel, but go to no expert.
  const ConstTensorView mine(x.data(), x.dtype(), {padded, hidden});
  const TensorView all = gathered_.Rows(0, groups * padded);
  links_.dp->AllGather(mine, all);
  Route(weights, all);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t unused = padded - group_tokens[g];
    if (unused == 0) continue;
    const TensorView ids = expert_ids_.Rows(g * padded + group_tokens[g], unused);
    ops_.device().Upload(ids.data(), no_expert_.data(), unused * k * sizeof(int32_t));
  }
  const TensorView out = summed_.Rows(0, groups * padded);
  RunLocalExperts(weights, all, out);
  links_.world->AllReduce(out);
  return out.Rows(shard_.dp_rank * padded, x.dim(0));
}

void MoeBlock::Route(const MoeWeights& weights, ConstTensorView x) {
  const int64_t tokens = x.dim(0);
  const TensorView logits = router_logits_.Rows(0, tokens);
  ops_.Gemm({.x = x, .weight = weights.router.get(), .out = logits});
  ops_.RouteTopK({.logits = logits,
                  .normalize = config_.norm_topk_prob,
                  .ids = expert_ids_.Rows(0, tokens),
                  .weights = expert_weights_.Rows(0, tokens)});
}

void MoeBlock::RunLocalExperts(const MoeWeights& weights, ConstTensorView x, TensorView out) {
  const int64_t tokens = x.dim(0);
  const int64_t rows = tokens * config_.num_experts_per_tok;
  const int64_t experts = shard_.num_experts;
  const TensorView offsets(offsets_.data(), DType::kI32, {experts + 1});
  const TensorView row_token(row_token_.data(), DType::kI32, {rows});
  const TensorView positions = positions_.Rows(0, tokens);
  // Number of rows that are in use: the last offset.
  const TensorView num_rows = offsets.Rows(experts, 1);

  ops_.MoePermute({.ids = expert_ids_.Rows(0, tokens),
                   .expert_begin = shard_.expert_begin,
                   .num_experts = shard_.num_experts,
                   .offsets = offsets,
                   .row_token = row_token,
                   .positions = positions});
  ops_.GroupedGemm({.x = x,
                    .row_index = row_token,
                    .offsets = offsets,
                    .experts = weights.gate_up_list,
                    .out = gate_up_.Rows(0, rows)});
  ops_.SiluAndMul(
      {.x = gate_up_.Rows(0, rows), .num_rows = num_rows, .out = activated_.Rows(0, rows)});
  ops_.GroupedGemm({.x = activated_.Rows(0, rows),
                    .offsets = offsets,
                    .experts = weights.down_list,
                    .out = expert_out_.Rows(0, rows)});
  ops_.MoeFinalize({.y = expert_out_.Rows(0, rows),
                    .positions = positions,
                    .weights = expert_weights_.Rows(0, tokens),
                    .out = out});
}

}  // namespace tessera
