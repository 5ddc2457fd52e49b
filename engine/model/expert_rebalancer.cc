#include "engine/model/expert_rebalancer.h"

#include <algorithm>
#include <numeric>
#include <utility>

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

ExpertRebalancer::ExpertRebalancer(const ModelConfig& config, const RankLinks& links,
                                   const Options& options)
    : links_(links), options_(options) {
  for (size_t layer = 0; layer < config.layer_is_moe.size(); ++layer) {
    moe_index_.push_back(-1);
    if (!config.layer_is_moe[layer]) continue;
    moe_index_.back() = static_cast<int32_t>(moe_layers_.size());
    moe_layers_.push_back(static_cast<int32_t>(layer));
  }
}

absl::StatusOr<std::unique_ptr<ExpertRebalancer>> ExpertRebalancer::Create(
    const ModelConfig& config, const ModelShard& shard, const RankLinks& links, Ops& ops,
    const Options& options) {
  std::unique_ptr<ExpertRebalancer> balance(new ExpertRebalancer(config, links, options));
  const int32_t ranks = links.world == nullptr ? 1 : links.world->size();
  ASSIGN_OR_RETURN(
      balance->statistics_,
      LoadStatistics::Create(&ops, {.num_layers = static_cast<int32_t>(balance->moe_layers_.size()),
                                    .num_experts = config.num_experts,
                                    .num_ranks = ranks}));
  if (!shard.expert_parallel || ranks == 1) return balance;
  RETURN_IF_ERROR(balance->CreateTables(config, shard, ops));
  if (options.slots == nullptr) return balance;
  ASSIGN_OR_RETURN(balance->mover_, ExpertMover::Create({.device = &ops.device(),
                                                         .world = links.world.get(),
                                                         .slots = options.slots}));
  return balance;
}

absl::Status ExpertRebalancer::CreateTables(const ModelConfig& config, const ModelShard& shard,
                                            Ops& ops) {
  const PlacementShape shape{.num_experts = config.num_experts,
                             .num_ranks = links_.world->size(),
                             .slots_per_rank = shard.expert_slots};
  for (size_t i = 0; i < moe_layers_.size(); ++i) {
    ASSIGN_OR_RETURN(Placement even, Placement::Even(shape));
    ASSIGN_OR_RETURN(PlacementTable table, PlacementTable::Create(&ops.device(), std::move(even)));
    tables_.push_back(std::move(table));
  }
  return absl::OkStatus();
}

void ExpertRebalancer::RecordChoices(int32_t layer, ConstTensorView ids) {
  if (ids.dim(0) > 0) statistics_->Record(moe_index_[layer], ids);
}

void ExpertRebalancer::RecordRows(int32_t layer, ConstTensorView num_rows) {
  statistics_->RecordRows(moe_index_[layer], num_rows);
}

void ExpertRebalancer::CountAnew(bool exchanging) {
  exchanging_ = exchanging;
  exchanges_judged_ = steps_ended_ = steps_taken_ = 0;
  statistics_->Forget();
}

void ExpertRebalancer::EndStep(TensorView rows) {
  statistics_->SumRows(rows);
  if (mover_ != nullptr) mover_->EndStep();
  if (!exchanging_) return;
  if (++steps_ended_ % options_.interval == 0) statistics_->Exchange(links_.world.get());
}

absl::Status ExpertRebalancer::BetweenSteps() {
  if (mover_ == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(mover_->Advance());
  if (std::exchange(exchanges_judged_, statistics_->num_exchanges()) ==
          statistics_->num_exchanges() ||
      mover_->moving()) {
    return absl::OkStatus();
  }
  return Rebalance();
}

absl::Status ExpertRebalancer::Rebalance() {
  constexpr int32_t kReserve = 1;  // the next move needs room, too
  std::vector<std::pair<double, int32_t>> by_balance;
  for (int32_t i = 0; i < static_cast<int32_t>(tables_.size()); ++i) {
    by_balance.emplace_back(statistics_->BalanceOf(i, tables_[i].current()), i);
  }
  std::sort(by_balance.begin(), by_balance.end());
  const RebalancePolicy policy;
  for (const auto& [ratio, i] : by_balance) {
    if (ratio >= policy.trigger_ratio) break;
    const absl::Span<const double> loads = statistics_->Loads(i);
    const Placement& current = tables_[i].current();
    ASSIGN_OR_RETURN(Placement proposed, ProposePlacement(current, loads, kReserve));
    if (!WorthMoving(current, proposed, loads, policy)) continue;
    return mover_->Start(moe_layers_[i], &tables_[i], std::move(proposed));
  }
  return absl::OkStatus();
}

std::shared_ptr<const ExpertLoads> ExpertRebalancer::TakeLoads() {
  if (!exchanging_ || ++steps_taken_ % options_.interval != 0) return nullptr;
  statistics_->Collect();
  auto loads = std::make_shared<ExpertLoads>();
  if (mover_ != nullptr) loads->moves = mover_->counts();
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
