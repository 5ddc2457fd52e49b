// How busy the experts of the MoE layers are: counted on every rank in every step, exchanged every
// some steps.
#ifndef TESSERA_ENGINE_MODEL_EXPERT_BALANCE_H_
#define TESSERA_ENGINE_MODEL_EXPERT_BALANCE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/model/rank_links.h"
#include "engine/scheduler/step_plan.h"
#include "kernels/ops.h"
#include "parallel/experts/load_statistics.h"

namespace tessera {

// Used by the rank's thread. `layer` is the model's; only MoE layers are allowed.
class ExpertBalance {
 public:
  // Steps between exchanges.
  static constexpr int32_t kDefaultInterval = 32;

  static absl::StatusOr<std::unique_ptr<ExpertBalance>> Create(const ModelConfig& config,
                                                               const RankLinks& links, Ops& ops);

  // The router's choices for tokens that this rank answers for, [T, k] int: every token of the
  // world is some rank's.
  void RecordChoices(int32_t layer, ConstTensorView ids);
  // Rows that this rank's experts compute, [1] int.
  void RecordRows(int32_t layer, ConstTensorView num_rows);
  // Once per step, behind all layers, on all ranks: exchanges the counts when it is time.
  void EndStep();
  // Once per step, when the device has been synchronized. What the exchange brought; nullptr in
  // steps without one.
  std::shared_ptr<const ExpertLoads> TakeLoads();

  // Rows that this rank's experts have computed since the start.
  int64_t own_rows() const { return statistics_->own_rows(); }

 private:
  ExpertBalance(const ModelConfig& config, const RankLinks& links);

  const RankLinks& links_;
  std::vector<int32_t> moe_index_;  // per layer of the model; -1: dense
  std::unique_ptr<LoadStatistics> statistics_;
  int64_t num_steps_ = 0;
  int64_t exchanges_taken_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_EXPERT_BALANCE_H_
