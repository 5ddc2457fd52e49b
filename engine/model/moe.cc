#include "engine/model/moe.h"

#include <algorithm>
#include <utility>

namespace tessera {
namespace {

// A group's tokens in equal parts for its tensor-parallel ranks, rounded up.
int64_t TokensPerRank(int64_t tokens, int32_t tp_size) { return (tokens + tp_size - 1) / tp_size; }

}  // namespace

absl::StatusOr<std::unique_ptr<MoeBlock>> MoeBlock::Create(const ModelConfig& config,
                                                           const ModelShard& shard,
                                                           int32_t max_tokens,
                                                           const RankLinks& links, Ops& ops,
                                                           const ExpertBalance::Options& balance) {
  std::unique_ptr<MoeBlock> block(new MoeBlock(config, shard, links, ops));
  const bool rows_can_travel = shard.expert_parallel && links.world != nullptr;
  if (links.moe_comm == MoeComm::kAllToAll && links.world != nullptr && !rows_can_travel) {
    return absl::InvalidArgumentError(
        "--moe-comm=alltoall needs whole experts on every rank: add --enable-expert-parallel");
  }
  ASSIGN_OR_RETURN(block->balance_, ExpertBalance::Create(config, shard, links, ops, balance));
  if (rows_can_travel && links.moe_comm != MoeComm::kAllReduce) {
    RETURN_IF_ERROR(block->CreateDispatcher(max_tokens));
  }
  RETURN_IF_ERROR(block->AllocateBuffers(max_tokens));
  if (block->dispatcher_ != nullptr && links.moe_comm == MoeComm::kAuto) {
    RETURN_IF_ERROR(block->MeasureCommunication(max_tokens));
  }
  return block;
}

MoeBlock::MoeBlock(const ModelConfig& config, const ModelShard& shard, const RankLinks& links,
                   Ops& ops)
    : config_(config),
      shard_(shard),
      links_(links),
      ops_(ops),
      act_(ops.ActivationDType(DType::kF32)),
      buffers_(ops.device()) {}

absl::Status MoeBlock::CreateDispatcher(int32_t max_tokens) {
  const PlacementShape shape{.num_experts = config_.num_experts,
                             .num_ranks = links_.world->size(),
                             .slots_per_rank = shard_.expert_slots};
  const DispatcherOptions options{
      .max_tokens = TokensPerRank(max_tokens, shard_.tp_size),
      .hidden = config_.hidden_size,
      .dtype = act_,
      .top_k = config_.num_experts_per_tok,
      .placement = shape,
      .combine = CombineMode::kExact,
      .exchange = ExchangeMode::kCounted,
      .finalize = [this](const FinalizeArgs& args) {
        ops_.MoeFinalize(
            {.y = args.y, .positions = args.positions, .weights = args.weights, .out = args.out});
      }};
  ASSIGN_OR_RETURN(dispatcher_,
                   ExpertDispatcher::Create(&ops_.device(), links_.world.get(), options));
  dispatcher_bytes_ = ExpertDispatcher::BufferBytes(options);
  return absl::OkStatus();
}

absl::Status MoeBlock::AllocateBuffers(int32_t max_tokens) {
  const int64_t tokens = int64_t{max_tokens} * shard_.dp_size;
  const int64_t k = config_.num_experts_per_tok;
  int64_t rows = tokens * k;
  if (dispatcher_ != nullptr) {
    rows = std::max(rows, links_.world->size() * TokensPerRank(max_tokens, shard_.tp_size) *
                              std::min<int64_t>(k, shard_.expert_slots));
  }
  const int64_t hidden = config_.hidden_size;
  ASSIGN_OR_RETURN(router_logits_,
                   buffers_.New(DType::kF32, tokens, config_.num_experts, "router logits"));
  ASSIGN_OR_RETURN(expert_ids_, buffers_.New(DType::kI32, tokens, k, "expert ids"));
  ASSIGN_OR_RETURN(expert_weights_, buffers_.New(DType::kF32, tokens, k, "expert weights"));
  ASSIGN_OR_RETURN(offsets_,
                   buffers_.New(DType::kI32, shard_.expert_slots + 1, 1, "expert row offsets"));
  ASSIGN_OR_RETURN(row_token_, buffers_.New(DType::kI32, tokens * k, 1, "expert row lists"));
  ASSIGN_OR_RETURN(positions_, buffers_.New(DType::kI32, tokens, k, "expert row positions"));
  ASSIGN_OR_RETURN(
      gate_up_, buffers_.New(act_, rows, 2 * int64_t{shard_.moe_ffn_size}, "expert gate and up"));
  if (balance_->moves_experts()) {
    ASSIGN_OR_RETURN(local_slots_, buffers_.New(DType::kI32, tokens, k, "expert slots"));
  }
  ASSIGN_OR_RETURN(activated_, buffers_.New(act_, rows, shard_.moe_ffn_size, "expert activations"));
  ASSIGN_OR_RETURN(expert_out_, buffers_.New(act_, rows, hidden, "expert outputs"));
  // With all-to-all the group's parts come together here, padded to equal sizes.
  const int64_t padding = dispatcher_ != nullptr ? shard_.tp_size : 0;
  ASSIGN_OR_RETURN(summed_, buffers_.New(act_, tokens + padding, hidden, "summed expert outputs"));
  if (dispatcher_ != nullptr) {
    ASSIGN_OR_RETURN(owned_, buffers_.New(act_, TokensPerRank(max_tokens, shard_.tp_size), hidden,
                                          "results of owned tokens"));
  }
  if (shard_.dp_size > 1) {
    ASSIGN_OR_RETURN(gathered_, buffers_.New(act_, tokens, hidden, "tokens of all groups"));
    no_expert_.assign(max_tokens * k, -1);
  }
  return absl::OkStatus();
}

MoeBlock::TokenRange MoeBlock::OwnTokens(int64_t group_tokens) const {
  const int64_t part = TokensPerRank(group_tokens, shard_.tp_size);
  const int64_t begin = std::min(group_tokens, part * shard_.tp_rank);
  return {.begin = begin, .count = std::min(part, group_tokens - begin)};
}

TensorView MoeBlock::Forward(const MoeInput& in) {
  if (UseAllToAll(in.group_tokens)) return ForwardAllToAll(in);
  if (shard_.dp_size > 1) return ForwardGroups(in);
  const int64_t tokens = in.x.dim(0);
  const TensorView out = summed_.Rows(0, tokens);
  if (tokens == 0) return out;
  Route(in.weights, in.x);
  const TokenRange own = OwnTokens(tokens);
  balance_->RecordChoices(in.layer, expert_ids_.Rows(own.begin, own.count));
  RunLocalExperts(in, in.x, out);
  links_.AllReduceTp(out);
  return out;
}

TensorView MoeBlock::ForwardGroups(const MoeInput& in) {
  const int64_t groups = shard_.dp_size;
  const int64_t padded = *std::max_element(in.group_tokens.begin(), in.group_tokens.end());
  const int64_t hidden = config_.hidden_size;
  const int64_t k = config_.num_experts_per_tok;
  if (padded == 0) return summed_.Rows(0, 0);
  // Rows beyond a group's tokens are leftovers of earlier steps: they travel, but go to no expert.
  const ConstTensorView mine(in.x.data(), in.x.dtype(), {padded, hidden});
  const TensorView all = gathered_.Rows(0, groups * padded);
  links_.dp->AllGather(mine, all);
  Route(in.weights, all);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t unused = padded - in.group_tokens[g];
    if (unused == 0) continue;
    const TensorView ids = expert_ids_.Rows(g * padded + in.group_tokens[g], unused);
    ops_.device().Upload(ids.data(), no_expert_.data(), unused * k * sizeof(int32_t));
  }
  const int64_t first = shard_.dp_rank * padded;
  const TokenRange own = OwnTokens(in.x.dim(0));
  balance_->RecordChoices(in.layer, expert_ids_.Rows(first + own.begin, own.count));
  const TensorView out = summed_.Rows(0, groups * padded);
  RunLocalExperts(in, all, out);
  links_.world->AllReduce(out);
  return out.Rows(first, in.x.dim(0));
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

void MoeBlock::RunLocalExperts(const MoeInput& in, ConstTensorView x, TensorView out) {
  const int64_t tokens = x.dim(0);
  const int64_t rows = tokens * config_.num_experts_per_tok;
  const TensorView offsets(offsets_.data(), DType::kI32, {int64_t{shard_.expert_slots} + 1});
  const TensorView row_token(row_token_.data(), DType::kI32, {rows});
  const TensorView positions = positions_.Rows(0, tokens);
  MoePermuteArgs permute{.ids = expert_ids_.Rows(0, tokens),
                         .expert_begin = shard_.expert_begin,
                         .num_experts = shard_.expert_slots,
                         .offsets = offsets,
                         .row_token = row_token,
                         .positions = positions};
  if (balance_->moves_experts()) {
    const TensorView slots = local_slots_.Rows(0, tokens);
    balance_->placement(in.layer).EnqueueLocalSlots(permute.ids, links_.world->rank(), slots);
    permute.ids = slots;
    permute.expert_begin = 0;
  }
  ops_.MoePermute(permute);
  const TensorView y =
      RunExperts(in, {.x = x, .row_index = row_token, .offsets = offsets, .max_rows = rows});
  ops_.MoeFinalize(
      {.y = y, .positions = positions, .weights = expert_weights_.Rows(0, tokens), .out = out});
}

TensorView MoeBlock::RunExperts(const MoeInput& in, const ExpertRows& rows) {
  const TensorView gate_up = gate_up_.Rows(0, rows.max_rows);
  const TensorView activated = activated_.Rows(0, rows.max_rows);
  const TensorView out = expert_out_.Rows(0, rows.max_rows);
  // How many rows are in use is known on the device only: the last offset.
  const ConstTensorView num_rows = rows.offsets.Rows(shard_.expert_slots, 1);
  balance_->RecordRows(in.layer, num_rows);
  ops_.GroupedGemm({.x = rows.x,
                    .row_index = rows.row_index,
                    .offsets = rows.offsets,
                    .experts = in.weights.gate_up_list,
                    .out = gate_up});
  ops_.SiluAndMul({.x = gate_up, .num_rows = num_rows, .out = activated});
  ops_.GroupedGemm(
      {.x = activated, .offsets = rows.offsets, .experts = in.weights.down_list, .out = out});
  return out;
}

TensorView MoeBlock::ForwardAllToAll(const MoeInput& in) {
  const int64_t tokens = in.x.dim(0);
  const int64_t part = TokensPerRank(tokens, shard_.tp_size);
  const auto [begin, count] = OwnTokens(tokens);
  const int32_t largest = *std::max_element(in.group_tokens.begin(), in.group_tokens.end());
  const ConstTensorView mine = in.x.Rows(begin, count);
  if (count > 0) Route(in.weights, mine);
  balance_->RecordChoices(in.layer, expert_ids_.Rows(0, count));
  DispatchedRows rows = dispatcher_->Dispatch(
      mine, {.ids = expert_ids_.Rows(0, count),
             .weights = expert_weights_.Rows(0, count),
             .placement = &balance_->placement(in.layer),
             .capacity = std::max<int64_t>(1, TokensPerRank(largest, shard_.tp_size))});
  const TensorView y = RunExperts(in, {.x = rows.x,
                                       .row_index = rows.row_index,
                                       .offsets = rows.offsets,
                                       .max_rows = rows.max_rows});
  if (shard_.tp_size == 1) {
    const TensorView out = summed_.Rows(0, tokens);
    dispatcher_->Combine(std::move(rows.handle), y, out);
    return out;
  }
  dispatcher_->Combine(std::move(rows.handle), y, owned_.Rows(0, count));
  if (tokens == 0) return summed_.Rows(0, 0);
  links_.tp->AllGather(owned_.Rows(0, part), summed_.Rows(0, part * shard_.tp_size));
  return summed_.Rows(0, tokens);
}

bool MoeBlock::UseAllToAll(const std::vector<int32_t>& group_tokens) const {
  if (dispatcher_ == nullptr) return false;
  if (costs_.empty()) return true;  // --moe-comm=alltoall
  const int32_t largest = *std::max_element(group_tokens.begin(), group_tokens.end());
  return PrefersAllToAll(costs_, largest);
}

}  // namespace tessera
