// The mixture-of-experts block of a layer: route, bring rows to their experts, compute, bring back.
#ifndef TESSERA_ENGINE_MODEL_MOE_H_
#define TESSERA_ENGINE_MODEL_MOE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/buffer_set.h"
#include "engine/model/expert_rebalancer.h"
#include "engine/model/model_config.h"
#include "engine/model/moe_comm_choice.h"
#include "engine/model/rank_links.h"
#include "engine/model/row_share.h"
#include "engine/model/shard.h"
#include "engine/model/weights.h"
#include "kernels/ops.h"
#include "parallel/experts/dispatcher.h"
#include "parallel/experts/placement.h"

namespace tessera {

// One layer's input on this rank.
struct MoeInput {
  int32_t layer = 0;  // of the model
  const MoeWeights& weights;
  // [share.part * tensor-parallel ranks, H]: those of the share are the input; when rows are
  // divided, the others belong to the group's other ranks and are overwritten.
  TensorView group_rows;
  const RowShare& share;
  // [1] int: rows of this group that are tokens; those behind them choose no expert.
  ConstTensorView token_count;
  // Tokens of every data-parallel group in this step.
  const std::vector<int32_t>& group_tokens;

  ConstTensorView x() const { return group_rows.Rows(share.begin, share.count); }
};

struct MoeOptions {
  int32_t max_tokens = 0;   // of one step and group
  DType act = DType::kF32;  // of activations
  ExpertRebalancer::Options balance;
};

// Buffers are shared by all layers. One thread.
class MoeBlock {
 public:
  static absl::StatusOr<std::unique_ptr<MoeBlock>> Create(const ModelConfig& config,
                                                          const ModelShard& shard,
                                                          const MoeOptions& options,
                                                          const RankLinks& links, Ops& ops);

  // MoE(x), [share.count, H]; valid until the next call. With several ranks every one calls this
  // for every layer, also with no rows: the others may have some.
  TensorView Forward(const MoeInput& in);
  // Whether Forward wants the rows of a step divided between the ranks of a group, however few they
  // are.
  bool DividesRows() const { return shard_.dp_size > 1 || rows_travel(); }
  // Whether a step of so many tokens per group only enqueues, and so can be captured.
  bool OnlyEnqueues(int64_t group_tokens) const {
    return !rows_travel() || !dispatcher_->WaitsForCounts(ChunkRows(group_tokens));
  }

  ExpertRebalancer& balance() { return *balance_; }

  int64_t buffer_bytes() const { return buffers_.bytes() + dispatcher_bytes_; }
  // How this block communicates in all steps, and what --moe-comm=auto measured.
  const MoeCommChoice& comm_choice() const { return comm_choice_; }

 private:
  MoeBlock(const ModelConfig& config, const ModelShard& shard, DType act, const RankLinks& links,
           Ops& ops);
  absl::Status AllocateBuffers(int32_t max_tokens);

  // Row lists of the experts' inputs, from MoePermute or from the dispatcher.
  struct ExpertRows {
    ConstTensorView x;          // rows to choose from
    ConstTensorView row_index;  // [R] int: row of x for each sorted row
    ConstTensorView offsets;    // [experts + 1] int
    int64_t max_rows = 0;       // R
  };

  // Most rows that one token has here: a token chooses an expert once, and a rank holds it once.
  int64_t RowsPerToken() const {
    return std::min(config_.num_experts_per_tok, shard_.expert_slots);
  }
  absl::Status CreateDispatcher(int32_t max_tokens);
  // Keeps the dispatcher or drops it, whichever is quicker. Collective.
  absl::Status ChooseCommunication(int32_t max_tokens);
  // What a layer communicates in a step with so many tokens per group, without its computation.
  void TryAllReduce(int64_t tokens);
  void TryAllToAll(int64_t tokens);
  bool rows_travel() const { return dispatcher_ != nullptr; }
  // Of a chunk of the dispatcher, when the largest group of a step has so many tokens.
  int64_t ChunkRows(int64_t group_tokens) const {
    return std::max<int64_t>(1, RowsPerRank(group_tokens, shard_.tp_size));
  }

  // Writes `count` rows of expert_ids_ and expert_weights_ from row `at` on: the choices of this
  // rank's rows, and no choice for those beyond them.
  void Route(const MoeInput& in, int64_t at, int64_t count);
  // Gate, up, activation and down projection of sorted rows; the result, [R, H], is in expert_out_.
  TensorView RunExperts(const MoeInput& in, const ExpertRows& rows);
  // out = sum over the experts (or expert slices) that this rank holds.
  void RunLocalExperts(const MoeInput& in, ConstTensorView x, TensorView out);
  // Every rank has all rows of the only group, and gets all results.
  TensorView ForwardWhole(const MoeInput& in);
  // Every rank sees the rows of all ranks, and keeps its own results.
  TensorView ForwardGathered(const MoeInput& in);
  // Rows travel to their experts and back.
  TensorView ForwardAllToAll(const MoeInput& in);

  const ModelConfig& config_;
  const ModelShard shard_;
  const RankLinks& links_;
  Ops& ops_;
  const DType act_;
  BufferSet buffers_;
  int64_t dispatcher_bytes_ = 0;

  std::unique_ptr<ExpertRebalancer> balance_;
  std::unique_ptr<ExpertDispatcher> dispatcher_;  // null when rows never travel
  MoeCommChoice comm_choice_;

  TensorView router_logits_;   // [max tokens, experts] f32
  TensorView expert_ids_;      // [all tokens, k] int
  TensorView expert_weights_;  // [all tokens, k] f32
  TensorView local_slots_;     // [all tokens, k] int, when experts may move
  TensorView offsets_;         // [expert slots + 1] int
  TensorView row_token_;       // [all tokens * k] int
  TensorView positions_;       // [all tokens, k] int
  TensorView gate_up_;         // [all tokens * m, 2 I]
  TensorView activated_;       // [all tokens * m, I]
  TensorView expert_out_;      // [all tokens * m, H]
  TensorView gathered_;        // [all tokens, H]: rows of all ranks, with several groups
  TensorView summed_;          // [all tokens, H]
  TensorView owned_;           // [max tokens / tp, H]: results of this rank's rows
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_MOE_H_
