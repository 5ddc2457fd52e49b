#include "engine/model/moe.h"

#include <algorithm>
#include <utility>

namespace tessera {

absl::StatusOr<std::unique_ptr<MoeBlock>> MoeBlock::Create(const ModelConfig& config,
                                                           const ModelShard& shard,
                                                           const MoeOptions& options,
                                                           const RankLinks& links, Ops& ops) {
  std::unique_ptr<MoeBlock> block(new MoeBlock(config, shard, options.act, links, ops));
  const bool rows_can_travel = shard.expert_parallel && links.world != nullptr;
  if (links.moe_comm == MoeComm::kAllToAll && links.world != nullptr && !rows_can_travel) {
    return absl::InvalidArgumentError(
        "--moe-comm=alltoall needs whole experts on every rank: add --enable-expert-parallel");
  }
  ASSIGN_OR_RETURN(block->balance_,
                   ExpertRebalancer::Create(config, shard, links, ops, options.balance));
  if (rows_can_travel && links.moe_comm != MoeComm::kAllReduce) {
    RETURN_IF_ERROR(block->CreateDispatcher(options.max_tokens));
  }
  RETURN_IF_ERROR(block->AllocateBuffers(options.max_tokens));
  if (block->rows_travel() && links.moe_comm == MoeComm::kAuto) {
    RETURN_IF_ERROR(block->ChooseCommunication(options.max_tokens));
  }
  block->comm_choice_.all_to_all = block->rows_travel();
  return block;
}

MoeBlock::MoeBlock(const ModelConfig& config, const ModelShard& shard, DType act,
                   const RankLinks& links, Ops& ops)
    : config_(config), shard_(shard), links_(links), ops_(ops), act_(act), buffers_(ops.device()) {}

absl::Status MoeBlock::CreateDispatcher(int32_t max_tokens) {
  const PlacementShape shape{.num_experts = config_.num_experts,
                             .num_ranks = links_.world->size(),
                             .slots_per_rank = shard_.expert_slots};
  const DispatcherOptions options{
      .max_tokens = RowsPerRank(max_tokens, shard_.tp_size),
      .hidden = config_.hidden_size,
      .dtype = act_,
      .top_k = config_.num_experts_per_tok,
      .placement = shape,
      .combine = CombineMode::kExact,
      .exchange = ops_.PadsSteps() ? ExchangeMode::kPaddedIfSmall : ExchangeMode::kCounted};
  ASSIGN_OR_RETURN(dispatcher_, ExpertDispatcher::Create(&ops_, links_.world.get(), options));
  dispatcher_bytes_ = ExpertDispatcher::BufferBytes(options);
  return absl::OkStatus();
}

absl::Status MoeBlock::AllocateBuffers(int32_t max_tokens) {
  const int64_t part = RowsPerRank(max_tokens, shard_.tp_size);
  const int64_t padded = part * shard_.tp_size;
  const int64_t tokens = padded * shard_.dp_size;
  const int64_t k = config_.num_experts_per_tok;
  const int64_t rows = tokens * RowsPerToken();
  const int64_t hidden = config_.hidden_size;
  ASSIGN_OR_RETURN(router_logits_,
                   buffers_.New(DType::kF32, padded, config_.num_experts, "router logits"));
  ASSIGN_OR_RETURN(expert_ids_, buffers_.New(DType::kI32, tokens, k, "expert ids"));
  ASSIGN_OR_RETURN(expert_weights_, buffers_.New(DType::kF32, tokens, k, "expert weights"));
  ASSIGN_OR_RETURN(offsets_,
                   buffers_.New(DType::kI32, shard_.expert_slots + 1, 1, "expert row offsets"));
  ASSIGN_OR_RETURN(row_token_, buffers_.New(DType::kI32, rows, 1, "expert row lists"));
  ASSIGN_OR_RETURN(positions_, buffers_.New(DType::kI32, tokens, k, "expert row positions"));
  ASSIGN_OR_RETURN(
      gate_up_, buffers_.New(act_, rows, 2 * int64_t{shard_.moe_ffn_size}, "expert gate and up"));
  if (balance_->moves_experts()) {
    ASSIGN_OR_RETURN(local_slots_, buffers_.New(DType::kI32, tokens, k, "expert slots"));
  }
  ASSIGN_OR_RETURN(activated_, buffers_.New(act_, rows, shard_.moe_ffn_size, "expert activations"));
  ASSIGN_OR_RETURN(expert_out_, buffers_.New(act_, rows, hidden, "expert outputs"));
  ASSIGN_OR_RETURN(summed_, buffers_.New(act_, tokens, hidden, "summed expert outputs"));
  if (shard_.dp_size > 1) {
    ASSIGN_OR_RETURN(gathered_, buffers_.New(act_, tokens, hidden, "rows of all ranks"));
  }
  if (links_.world != nullptr) {
    ASSIGN_OR_RETURN(owned_, buffers_.New(act_, part, hidden, "results of this rank's rows"));
  }
  return absl::OkStatus();
}

absl::Status MoeBlock::ChooseCommunication(int32_t max_tokens) {
  // Token t chooses experts t * k, t * k + 1, …: spread as evenly as a router can.
  std::vector<int32_t> ids(RowsPerRank(max_tokens, shard_.tp_size) * config_.num_experts_per_tok);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % config_.num_experts);
  ops_.device().Upload(expert_ids_.data(), ids.data(), ids.size() * sizeof(int32_t));
  const MoeCommTrials trials{.max_tokens = max_tokens,
                             .all_reduce = [this](int64_t tokens) { TryAllReduce(tokens); },
                             .all_to_all = [this](int64_t tokens) { TryAllToAll(tokens); }};
  ASSIGN_OR_RETURN(comm_choice_, ChooseMoeComm(trials, *links_.world, ops_.device()));
  if (comm_choice_.all_to_all) return absl::OkStatus();
  dispatcher_ = nullptr;
  dispatcher_bytes_ = 0;
  return absl::OkStatus();
}

void MoeBlock::TryAllReduce(int64_t tokens) {
  const int64_t part = RowsPerRank(tokens, shard_.tp_size);
  if (shard_.dp_size == 1 && !WorthDividing(tokens, shard_.tp_size)) {
    links_.world->AllReduce(summed_.Rows(0, tokens));
    return;
  }
  const int64_t all = part * links_.world->size();
  const TensorView& gathered = shard_.dp_size > 1 ? gathered_ : expert_out_;
  links_.world->AllGather(owned_.Rows(0, part), gathered.Rows(0, all));
  links_.world->ReduceScatter(summed_.Rows(0, all), owned_.Rows(0, part));
}

void MoeBlock::TryAllToAll(int64_t tokens) {
  const int64_t part = RowsPerRank(tokens, shard_.tp_size);
  DispatchedRows rows =
      dispatcher_->Dispatch(owned_.Rows(0, part), {.ids = expert_ids_.Rows(0, part),
                                                   .weights = expert_weights_.Rows(0, part),
                                                   .placement = &balance_->any_placement(),
                                                   .capacity = part});
  const TensorView y = expert_out_.Rows(0, rows.max_rows);
  dispatcher_->Combine(std::move(rows.handle), y, owned_.Rows(0, part));
}

TensorView MoeBlock::Forward(const MoeInput& in) {
  if (rows_travel()) return ForwardAllToAll(in);
  if (in.share.divided || shard_.dp_size > 1) return ForwardGathered(in);
  return ForwardWhole(in);
}

TensorView MoeBlock::ForwardWhole(const MoeInput& in) {
  const int64_t tokens = in.x().dim(0);
  const TensorView out = summed_.Rows(0, tokens);
  if (tokens == 0) return out;
  Route(in, 0, tokens);
  const RowShare own = PartOfRows(tokens, shard_.tp_size, shard_.tp_rank);
  balance_->RecordChoices(in.layer, expert_ids_.Rows(std::min(own.begin, tokens), own.count));
  RunLocalExperts(in, in.x(), out);
  links_.AllReduceTp(out);
  return out;
}

TensorView MoeBlock::ForwardGathered(const MoeInput& in) {
  const int64_t ranks = links_.world->size();
  const int64_t rank = links_.world->rank();
  const int64_t count = in.share.count;
  const int64_t part = RowsPerRank(
      *std::max_element(in.group_tokens.begin(), in.group_tokens.end()), shard_.tp_size);
  if (part == 0) return owned_.Rows(0, 0);
  // Rows beyond this rank's are leftovers of earlier steps: they travel, but go to no expert.
  Route(in, rank * part, part);
  const TensorView ids = expert_ids_.Rows(rank * part, part);
  balance_->RecordChoices(in.layer, ids.Rows(0, count));
  const ConstTensorView own(in.x().data(), act_, {part, config_.hidden_size});
  const TensorView& all_rows = shard_.dp_size > 1 ? gathered_ : in.group_rows;
  const TensorView all = all_rows.Rows(0, ranks * part);
  const AllGatherPart parts[] = {{.in = own, .out = all},
                                 {.in = ids, .out = expert_ids_.Rows(0, ranks * part)},
                                 {.in = expert_weights_.Rows(rank * part, part),
                                  .out = expert_weights_.Rows(0, ranks * part)}};
  links_.world->AllGather(parts);
  const TensorView sums = summed_.Rows(0, ranks * part);
  RunLocalExperts(in, all, sums);
  links_.world->ReduceScatter(sums, owned_.Rows(0, part));
  return owned_.Rows(0, count);
}

void MoeBlock::Route(const MoeInput& in, int64_t at, int64_t count) {
  const TensorView logits = router_logits_.Rows(0, in.share.count);
  ops_.Gemm({.x = in.x(), .weight = in.weights.router.get(), .out = logits});
  ops_.RouteTopK({.logits = logits,
                  .normalize = config_.norm_topk_prob,
                  .first_row = static_cast<int32_t>(in.share.begin),
                  .num_rows = in.token_count,
                  .ids = expert_ids_.Rows(at, count),
                  .weights = expert_weights_.Rows(at, count)});
}

void MoeBlock::RunLocalExperts(const MoeInput& in, ConstTensorView x, TensorView out) {
  const int64_t tokens = x.dim(0);
  const int64_t rows = tokens * RowsPerToken();
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
    ops_.LocalSlots({.placement = balance_->placement(in.layer).tensors(),
                     .rank = links_.world->rank(),
                     .ids = permute.ids,
                     .slots = slots});
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
                    .experts = in.weights.gate_up.table.get(),
                    .out = gate_up});
  ops_.SiluAndMul({.x = gate_up, .num_rows = num_rows, .out = activated});
  ops_.GroupedGemm({.x = activated,
                    .offsets = rows.offsets,
                    .experts = in.weights.down.table.get(),
                    .out = out});
  return out;
}

TensorView MoeBlock::ForwardAllToAll(const MoeInput& in) {
  const int64_t count = in.share.count;
  const int32_t largest = *std::max_element(in.group_tokens.begin(), in.group_tokens.end());
  Route(in, 0, count);
  balance_->RecordChoices(in.layer, expert_ids_.Rows(0, count));
  DispatchedRows rows = dispatcher_->Dispatch(in.x(), {.ids = expert_ids_.Rows(0, count),
                                                       .weights = expert_weights_.Rows(0, count),
                                                       .placement = &balance_->placement(in.layer),
                                                       .capacity = ChunkRows(largest)});
  const TensorView y = RunExperts(in, {.x = rows.x,
                                       .row_index = rows.row_index,
                                       .offsets = rows.offsets,
                                       .max_rows = rows.max_rows});
  const TensorView out = owned_.Rows(0, count);
  dispatcher_->Combine(std::move(rows.handle), y, out);
  return out;
}

}  // namespace tessera
