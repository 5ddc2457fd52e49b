// Qwen3 and Qwen3-MoE: the forward pass of one rank, written over Ops.
#ifndef TESSERA_ENGINE_MODEL_QWEN3_H_
#define TESSERA_ENGINE_MODEL_QWEN3_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/buffer_set.h"
#include "engine/model/model_config.h"
#include "engine/model/moe.h"
#include "engine/model/quiet_work.h"
#include "engine/model/row_share.h"
#include "engine/model/shard.h"
#include "engine/model/weights.h"
#include "kernels/ops.h"

namespace tessera {

// Device views of one BatchPlan (engine/scheduler/step_plan.h has the meanings).
struct ForwardBatch {
  int32_t num_tokens = 0;        // T of this rank's group, padding included
  ConstTensorView token_count;   // [1] int: rows that are tokens; those behind them are padding
  ConstTensorView token_ids;     // [T] int
  ConstTensorView token_source;  // [T] int
  ConstTensorView drawn_tokens;  // [rows of the step before] int; empty: no token comes from there
  ConstTensorView positions;     // [T] int
  ConstTensorView slot_mapping;  // [T] int
  ConstTensorView cu_seqlens;    // [S + 1] int
  ConstTensorView context_lens;  // [S] int
  ConstTensorView block_tables;  // [S, max_blocks] int
  // Tokens of every data-parallel group in this step (host numbers, the same on all ranks).
  std::vector<int32_t> group_tokens;
};

// Whether and how experts move between ranks while the model serves.
struct ExpertMoving {
  int32_t interval = 0;                    // steps between exchanges of loads; 0: they stay
  std::shared_ptr<Checkpoint> checkpoint;  // to read moving experts from
  std::shared_ptr<QuietWork> preparation;  // reads and packs them, for all ranks of the process
};

// How a rank runs its slice of the model.
struct Qwen3Options {
  DType dtype = DType::kBF16;  // the model's: of weights, and of activations unless the backend
                               // is faster with more precise ones
  int32_t max_tokens = 0;      // tokens of one step
  int32_t max_logits_rows = 0;
  int32_t max_positions = 0;  // rows of the RoPE table
  ExpertMoving moving;
};

// Owns weights and activation buffers. One thread.
class Qwen3Model {
 public:
  // `links` reaches the other ranks and outlives the model, as does `ops`.
  static absl::StatusOr<std::unique_ptr<Qwen3Model>> Create(const ModelConfig& config,
                                                            const ModelShard& shard,
                                                            ModelWeights weights,
                                                            const Qwen3Options& options,
                                                            const RankLinks& links, Ops& ops);

  // Runs all layers. `kv` has one entry per layer.
  void Forward(const ForwardBatch& batch, absl::Span<const KvLayer> kv);

  // logits[n] = lm_head(h[rows[n]]), h being the final norm of the last Forward, zeros where
  // rows[n] is -1; at most max_logits_rows rows per call.
  void Logits(ConstTensorView rows /* [N] int */, TensorView logits /* [N, V] f32 */);

  // Of all expert slots, filled or not.
  const ModelWeights& weights() const { return weights_; }
  int64_t weight_bytes() const { return weights_.bytes + spare_expert_bytes(); }
  // What the spare expert slots of all layers take once experts have moved into them.
  int64_t spare_expert_bytes() const;
  // nullptr for a dense model.
  ExpertRebalancer* balance() { return moe_ == nullptr ? nullptr : &moe_->balance(); }
  // See MoeBlock::comm_choice.
  MoeCommChoice moe_comm_choice() const {
    return moe_ == nullptr ? MoeCommChoice() : moe_->comm_choice();
  }
  // Whether Forward of a step of so many tokens per group only enqueues, and so can be captured.
  bool OnlyEnqueues(int64_t group_tokens) const {
    return moe_ == nullptr || moe_->OnlyEnqueues(group_tokens);
  }
  int64_t buffer_bytes() const {
    return buffers_.bytes() + (moe_ == nullptr ? 0 : moe_->buffer_bytes());
  }

 private:
  Qwen3Model(const ModelConfig& config, const ModelShard& shard, ModelWeights weights, DType act,
             const RankLinks& links, Ops& ops);
  absl::Status AllocateBuffers(const Qwen3Options& options);

  RowShare ShareRows(const ForwardBatch& batch) const;
  void Embed(const ForwardBatch& batch);
  // Adds what the last block gave to this rank's rows of the residual stream, and norms them.
  void Norm(const DeviceVector& norm);
  // The norms of all rows of the step, whoever made them.
  ConstTensorView GatheredNorms(int64_t rows);
  // Sums a block's output, [T, H] at the head of delta_, over the ranks: this rank's rows.
  void SumDelta(int64_t rows);
  void Attention(int32_t layer, const ForwardBatch& batch, const KvLayer& kv);
  void Mlp(const LayerWeights& layer, int64_t rows);

  const ModelConfig config_;
  const ModelShard shard_;
  ModelWeights weights_;
  const RankLinks& links_;
  Ops& ops_;
  const DType act_;
  std::unique_ptr<ExpertLoader> expert_slots_;  // when experts move
  std::unique_ptr<MoeBlock> moe_;
  BufferSet buffers_;

  TensorView cos_sin_;  // [max_positions, D] f32
  // With room for equal parts for all ranks:
  TensorView residual_;      // [max_tokens, H]; of a divided step only this rank's rows
  TensorView normed_;        // [max_tokens, H]
  TensorView delta_;         // [max_tokens, H]: outputs of attention and dense MLP
  TensorView own_delta_;     // [max_tokens / tp, H]: the sum of this rank's rows of them
  TensorView qkv_;           // [max_tokens, (Nq + 2 Nk) D]
  TensorView attention_;     // [max_tokens, Nq D]
  TensorView gate_up_;       // [max_tokens, 2 F]
  TensorView activated_;     // [max_tokens, F]
  TensorView last_rows_;     // [max_logits_rows, H]
  TensorView logits_shard_;  // [max_logits_rows, vocab_rows] f32
  TensorView logits_all_;    // [tp * max_logits_rows, vocab_rows] f32
  RowShare share_;           // of the step at work
  // [share_.count, H]: the last block's output; the next norm adds it to the residual stream.
  ConstTensorView pending_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_QWEN3_H_
