#include "engine/model/qwen3.h"

#include <cmath>
#include <utility>

#include "engine/model/rope.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<Qwen3Model>> Qwen3Model::Create(const ModelConfig& config,
                                                               const ModelShard& shard,
                                                               ModelWeights weights,
                                                               const Qwen3Options& options,
                                                               const RankLinks& links, Ops& ops) {
  const DType act = ops.ActivationDType(options.dtype);
  std::unique_ptr<Qwen3Model> model(
      new Qwen3Model(config, shard, std::move(weights), act, links, ops));
  RETURN_IF_ERROR(model->AllocateBuffers(options));
  if (config.has_moe_layers()) {
    ExpertRebalancer::Options balance;
    if (options.moving.interval > 0) {
      model->expert_slots_ = std::make_unique<CheckpointExpertLoader>(
          CheckpointExpertLoader::Context{.config = model->config_,
                                          .shard = model->shard_,
                                          .dtype = options.dtype,
                                          .checkpoint = options.moving.checkpoint,
                                          .preparation = options.moving.preparation,
                                          .weights = model->weights_,
                                          .ops = ops});
      balance = {.interval = options.moving.interval, .slots = model->expert_slots_.get()};
    }
    ASSIGN_OR_RETURN(
        model->moe_,
        MoeBlock::Create(model->config_, shard,
                         {.max_tokens = options.max_tokens, .act = act, .balance = balance}, links,
                         ops));
  }
  return model;
}

Qwen3Model::Qwen3Model(const ModelConfig& config, const ModelShard& shard, ModelWeights weights,
                       DType act, const RankLinks& links, Ops& ops)
    : config_(config),
      shard_(shard),
      weights_(std::move(weights)),
      links_(links),
      ops_(ops),
      act_(act),
      buffers_(ops.device()) {}

int64_t Qwen3Model::spare_expert_bytes() const {
  const int64_t spare = shard_.expert_slots - shard_.num_experts;
  int64_t bytes = 0;
  for (const LayerWeights& layer : weights_.layers) {
    if (spare == 0 || layer.moe.router == nullptr) continue;
    bytes += spare * static_cast<int64_t>(layer.moe.gate_up.weights[0]->bytes() +
                                          layer.moe.down.weights[0]->bytes());
  }
  return bytes;
}

absl::Status Qwen3Model::AllocateBuffers(const Qwen3Options& options) {
  const int64_t tokens = options.max_tokens;
  const int64_t part = RowsPerRank(tokens, shard_.tp_size);
  const int64_t padded = part * shard_.tp_size;
  const int64_t hidden = config_.hidden_size;
  const int64_t q_width = int64_t{shard_.num_q_heads} * config_.head_dim;
  const int64_t kv_width = int64_t{shard_.num_kv_heads} * config_.head_dim;
  ASSIGN_OR_RETURN(cos_sin_, buffers_.New(DType::kF32, options.max_positions, config_.head_dim,
                                          "the RoPE table (lower --max-model-len)"));
  ASSIGN_OR_RETURN(residual_, buffers_.New(act_, padded, hidden, "the residual stream"));
  ASSIGN_OR_RETURN(normed_, buffers_.New(act_, padded, hidden, "normalised activations"));
  ASSIGN_OR_RETURN(delta_, buffers_.New(act_, padded, hidden, "block outputs"));
  ASSIGN_OR_RETURN(qkv_,
                   buffers_.New(act_, tokens, q_width + 2 * kv_width, "queries, keys, values"));
  ASSIGN_OR_RETURN(attention_, buffers_.New(act_, tokens, q_width, "attention outputs"));
  bool has_dense = false;
  for (bool is_moe : config_.layer_is_moe) has_dense |= !is_moe;
  if (has_dense) {
    ASSIGN_OR_RETURN(gate_up_,
                     buffers_.New(act_, tokens, 2 * int64_t{shard_.ffn_size}, "gate and up"));
    ASSIGN_OR_RETURN(activated_, buffers_.New(act_, tokens, shard_.ffn_size, "MLP activations"));
  }
  ASSIGN_OR_RETURN(last_rows_, buffers_.New(act_, kMaxLogitsRows, hidden, "logits inputs"));
  if (links_.tp != nullptr) {
    ASSIGN_OR_RETURN(own_delta_, buffers_.New(act_, part, hidden, "summed block outputs"));
    ASSIGN_OR_RETURN(logits_shard_, buffers_.New(DType::kF32, kMaxLogitsRows, shard_.vocab_rows,
                                                 "the vocabulary shard's logits"));
    ASSIGN_OR_RETURN(logits_all_,
                     buffers_.New(DType::kF32, int64_t{kMaxLogitsRows} * shard_.tp_size,
                                  shard_.vocab_rows, "gathered logits"));
  }
  const std::vector<float> table =
      BuildCosSinTable(ComputeRope(config_), config_.head_dim, options.max_positions);
  ops_.device().Upload(cos_sin_.data(), table.data(), table.size() * sizeof(float));
  return absl::OkStatus();
}

RowShare Qwen3Model::ShareRows(const ForwardBatch& batch) const {
  if (links_.tp == nullptr) return AllRows(batch.num_tokens);
  const bool moe_divides = moe_ != nullptr && moe_->DividesRows();
  if (!moe_divides && !WorthDividing(batch.num_tokens, shard_.tp_size)) {
    return AllRows(batch.num_tokens);
  }
  return PartOfRows(batch.num_tokens, shard_.tp_size, shard_.tp_rank);
}

void Qwen3Model::Forward(const ForwardBatch& batch, absl::Span<const KvLayer> kv) {
  share_ = ShareRows(batch);
  Embed(batch);
  for (int32_t i = 0; i < config_.num_hidden_layers; ++i) {
    const LayerWeights& layer = weights_.layers[i];
    Norm(layer.input_norm);
    Attention(i, batch, kv[i]);
    Norm(layer.post_attention_norm);
    if (config_.layer_is_moe[i]) {
      pending_ = moe_->Forward({.layer = i,
                                .weights = layer.moe,
                                .group_rows = normed_,
                                .share = share_,
                                .token_count = batch.token_count,
                                .group_tokens = batch.group_tokens});
    } else {
      Mlp(layer, batch.num_tokens);
    }
  }
  Norm(weights_.final_norm);
  GatheredNorms(batch.num_tokens);
}

void Qwen3Model::Embed(const ForwardBatch& batch) {
  const TensorView& out = share_.divided ? delta_ : residual_;
  const bool has_sources = !batch.drawn_tokens.empty();
  ops_.Embed({.ids = batch.token_ids,
              .source = has_sources ? batch.token_source : ConstTensorView(),
              .drawn = batch.drawn_tokens,
              .table = weights_.embedding.get(),
              .vocab_begin = shard_.vocab_begin,
              .out = out.Rows(0, batch.num_tokens)});
  if (!share_.divided) {
    links_.AllReduceTp(residual_.Rows(0, batch.num_tokens));
  } else if (share_.part > 0) {
    links_.tp->ReduceScatter(delta_.Rows(0, share_.part * shard_.tp_size),
                             residual_.Rows(share_.begin, share_.part));
  }
  pending_ = ConstTensorView();
}

void Qwen3Model::Norm(const DeviceVector& norm) {
  ops_.RmsNorm({.x = residual_.Rows(share_.begin, share_.count),
                .add = pending_,
                .weight = norm.view,
                .eps = config_.rms_norm_eps,
                .out = normed_.Rows(share_.begin, share_.count)});
}

ConstTensorView Qwen3Model::GatheredNorms(int64_t rows) {
  if (share_.divided && share_.part > 0) {
    links_.tp->AllGather(normed_.Rows(share_.begin, share_.part),
                         normed_.Rows(0, share_.part * shard_.tp_size));
  }
  return normed_.Rows(0, rows);
}

void Qwen3Model::SumDelta(int64_t rows) {
  if (!share_.divided) {
    links_.AllReduceTp(delta_.Rows(0, rows));
    pending_ = delta_.Rows(0, rows);
    return;
  }
  if (share_.part > 0) {
    links_.tp->ReduceScatter(delta_.Rows(0, share_.part * shard_.tp_size),
                             own_delta_.Rows(0, share_.part));
  }
  pending_ = own_delta_.Rows(0, share_.count);
}

void Qwen3Model::Attention(int32_t layer_index, const ForwardBatch& batch, const KvLayer& kv) {
  const LayerWeights& layer = weights_.layers[layer_index];
  const int64_t tokens = batch.num_tokens;
  const TensorView qkv = qkv_.Rows(0, tokens);
  const TensorView attention = attention_.Rows(0, tokens);

  ops_.Gemm({.x = GatheredNorms(tokens),
             .weight = layer.qkv.get(),
             .bias = layer.qkv_bias.view,
             .out = qkv});
  ops_.QkNormRopeStoreKv({.qkv = qkv,
                          .q_norm = layer.q_norm.view,
                          .k_norm = layer.k_norm.view,
                          .cos_sin = cos_sin_,
                          .positions = batch.positions,
                          .slot_mapping = batch.slot_mapping,
                          .kv = kv,
                          .num_q_heads = shard_.num_q_heads,
                          .num_kv_heads = shard_.num_kv_heads,
                          .eps = config_.rms_norm_eps});
  ops_.PagedAttention({.q = qkv.Columns(0, int64_t{shard_.num_q_heads} * config_.head_dim),
                       .kv = kv,
                       .block_tables = batch.block_tables,
                       .cu_seqlens = batch.cu_seqlens,
                       .context_lens = batch.context_lens,
                       .num_q_heads = shard_.num_q_heads,
                       .num_kv_heads = shard_.num_kv_heads,
                       .window = config_.layer_window[layer_index],
                       .scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim)),
                       .out = attention});
  ops_.Gemm({.x = attention,
             .weight = layer.o.get(),
             .bias = layer.o_bias.view,
             .out = delta_.Rows(0, tokens)});
  SumDelta(tokens);
}

void Qwen3Model::Mlp(const LayerWeights& layer, int64_t rows) {
  const TensorView gate_up = gate_up_.Rows(0, rows);
  const TensorView activated = activated_.Rows(0, rows);
  ops_.Gemm({.x = GatheredNorms(rows), .weight = layer.mlp.gate_up.get(), .out = gate_up});
  ops_.SiluAndMul({.x = gate_up, .out = activated});
  ops_.Gemm({.x = activated, .weight = layer.mlp.down.get(), .out = delta_.Rows(0, rows)});
  SumDelta(rows);
}

void Qwen3Model::Logits(ConstTensorView rows, TensorView logits) {
  const int64_t count = rows.dim(0);
  TESSERA_CHECK(count <= kMaxLogitsRows);
  const TensorView x = last_rows_.Rows(0, count);
  ops_.GatherRows({.x = normed_, .rows = rows, .out = x});
  if (links_.tp == nullptr) {
    ops_.Gemm({.x = x, .weight = &weights_.output_head(), .out = logits});
    return;
  }
  const TensorView shard = logits_shard_.Rows(0, count);
  ops_.Gemm({.x = x, .weight = &weights_.output_head(), .out = shard});
  const bool draws = shard_.tp_rank == 0;
  const TensorView all(logits_all_.data(), DType::kF32,
                       {draws ? shard_.tp_size : 0, count, shard_.vocab_rows});
  links_.tp->Gather(shard, all, 0);
  if (draws) ops_.ConcatColumns({.shards = all, .out = logits});
}

}  // namespace tessera
