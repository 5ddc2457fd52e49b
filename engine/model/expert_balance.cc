#include "engine/model/expert_balance.h"

#include <algorithm>
#include <numeric>

#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// Maximum over mean: 1 is perfect, also when there was nothing to do.
float MaxOverMean(absl::Span<const int64_t> rows) {
  const int64_t total = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  if (total == 0) return 1;
  const double mean = static_cast<double>(total) / static_cast<double>(rows.size());
  return static_cast<float>(static_cast<double>(*std::max_element(rows.begin(), rows.end())) /
                            mean);
}

}  // namespace

ExpertBalance::ExpertBalance(const ModelConfig& config, const RankLinks& links) : links_(links) {
  int32_t next = 0;
  for (const bool is_moe : config.layer_is_moe) moe_index_.push_back(is_moe ? next++ : -1);
}

absl::StatusOr<std::unique_ptr<ExpertBalance>> ExpertBalance::Create(const ModelConfig& config,
                                                                     const RankLinks& links,
                                                                     Ops& ops) {
  std::unique_ptr<ExpertBalance> balance(new ExpertBalance(config, links));
  const auto layers = std::count(config.layer_is_moe.begin(), config.layer_is_moe.end(), true);
  ASSIGN_OR_RETURN(
      balance->statistics_,
      LoadStatistics::Create(&ops.device(),
                             {.num_layers = static_cast<int32_t>(layers),
                              .num_experts = config.num_experts,
                              .num_ranks = links.world == nullptr ? 1 : links.world->size()}));
  return balance;
}

void ExpertBalance::RecordChoices(int32_t layer, ConstTensorView ids) {
  if (ids.dim(0) > 0) statistics_->Record(moe_index_[layer], ids);
}

void ExpertBalance::RecordRows(int32_t layer, ConstTensorView num_rows) {
  statistics_->RecordRows(moe_index_[layer], num_rows);
}

void ExpertBalance::EndStep() {
  if (++num_steps_ % kDefaultInterval == 0) statistics_->Exchange(links_.world.get());
}

std::shared_ptr<const ExpertLoads> ExpertBalance::TakeLoads() {
  if (statistics_->num_exchanges() == exchanges_taken_) return nullptr;
  exchanges_taken_ = statistics_->num_exchanges();
  auto loads = std::make_shared<ExpertLoads>();
  for (const int32_t index : moe_index_) {
    LayerLoad& layer = loads->layers.emplace_back();
    if (index < 0) continue;
    const absl::Span<const int64_t> choices = statistics_->Totals(index);
    layer.choices.assign(choices.begin(), choices.end());
    layer.max_over_mean = MaxOverMean(statistics_->RankRows(index));
  }
  return loads;
}

}  // namespace tessera
