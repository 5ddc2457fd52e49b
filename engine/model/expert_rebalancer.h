// How busy the experts of the MoE layers are, and where they lie: counted on every rank in every
// step, exchanged every some steps; moved when that is worth it.
#ifndef TESSERA_ENGINE_MODEL_EXPERT_REBALANCER_H_
#define TESSERA_ENGINE_MODEL_EXPERT_REBALANCER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/expert_loader.h"
#include "engine/model/expert_loads.h"
#include "engine/model/expert_mover.h"
#include "engine/model/model_config.h"
#include "engine/model/rank_links.h"
#include "engine/model/shard.h"
#include "kernels/ops.h"
#include "parallel/experts/load_statistics.h"
#include "parallel/experts/placement.h"

namespace tessera {

// Used by the rank's thread. `layer` is the model's; only MoE layers are allowed.
//
// All ranks see the same numbers after an exchange and decide by the same pure functions, so all
// start the same move without a word. In every interval at most one layer starts to move: the one
// with the worst balance among those that a move is worth.
class ExpertRebalancer {
 public:
  struct Options {
    int32_t interval = 32;  // steps between exchanges
    // Where moving experts come from and go to; nullptr: they stay. Needs whole experts on several
    // ranks and at least one spare slot on each. Outlives the balance.
    ExpertLoader* slots = nullptr;
  };
  static absl::StatusOr<std::unique_ptr<ExpertRebalancer>> Create(const ModelConfig& config,
                                                                  const ModelShard& shard,
                                                                  const RankLinks& links, Ops& ops,
                                                                  const Options& options);

  // The router's choices for tokens that this rank answers for, [T, k] int: every token of the
  // world is some rank's.
  void RecordChoices(int32_t layer, ConstTensorView ids);
  // Rows that this rank's experts compute, [1] int.
  void RecordRows(int32_t layer, ConstTensorView num_rows);
  // Forgets what steps have counted so far; none is under way. Those to come exchange it or do not.
  // On all ranks.
  void CountAnew(bool exchanging);
  // Once per step, behind all layers, on all ranks: writes the rows that this rank's experts have
  // computed since CountAnew, and exchanges the counts when it is time.
  void EndStep(TensorView rows /* [1] i64 */);
  // Once per step, in order, when its work is done. What its exchange brought; nullptr in steps
  // without one.
  std::shared_ptr<const ExpertLoads> TakeLoads();

  // Between steps, after TakeLoads. An error is the end of the rank.
  absl::Status BetweenSteps();

  int64_t moved_bytes() const { return mover_ == nullptr ? 0 : mover_->moved_bytes(); }
  // True when the placements may differ from whole experts in order.
  bool moves_experts() const { return mover_ != nullptr; }
  // Of one layer; exists when whole experts are spread over ranks.
  const PlacementTable& placement(int32_t layer) const { return tables_[moe_index_[layer]]; }
  const PlacementTable& any_placement() const { return tables_.front(); }

 private:
  ExpertRebalancer(const ModelConfig& config, const RankLinks& links, const Options& options);
  absl::Status CreateTables(const ModelConfig& config, const ModelShard& shard, Ops& ops);
  // Starts to move the layer that needs it most.
  absl::Status Rebalance();

  const RankLinks& links_;
  const Options options_;
  std::vector<int32_t> moe_index_;   // per layer of the model; -1: dense
  std::vector<int32_t> moe_layers_;  // the model's layer of each MoE layer
  std::unique_ptr<LoadStatistics> statistics_;
  std::vector<PlacementTable> tables_;  // per MoE layer
  std::unique_ptr<ExpertMover> mover_;
  bool exchanging_ = true;
  int64_t exchanges_judged_ = 0;
  int64_t steps_ended_ = 0;
  int64_t steps_taken_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_EXPERT_REBALANCER_H_
