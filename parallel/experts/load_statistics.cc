#include "parallel/experts/load_statistics.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {

LoadStatistics::LoadStatistics(ExpertOps* ops, const LoadStatisticsOptions& options)
    : ops_(ops),
      options_(options),
      counted_(static_cast<size_t>(NumCounts()) * options.num_ranks),
      smoothed_(static_cast<size_t>(NumChoices())),
      totals_(static_cast<size_t>(NumChoices())),
      rank_rows_(static_cast<size_t>(options.num_layers) * options.num_ranks) {}

absl::StatusOr<std::unique_ptr<LoadStatistics>> LoadStatistics::Create(
    ExpertOps* ops, const LoadStatisticsOptions& options) {
  if (options.num_layers < 1 || options.num_experts < 1 || options.num_ranks < 1 ||
      !(options.smoothing > 0 && options.smoothing <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expert load statistics need at least one layer, expert and rank and a smoothing in (0, ",
        "1]; got ", options.num_layers, ", ", options.num_experts, ", ", options.num_ranks, ", ",
        options.smoothing));
  }
  std::unique_ptr<LoadStatistics> statistics(new LoadStatistics(ops, options));
  const size_t bytes = statistics->NumCounts() * sizeof(int64_t);
  ASSIGN_OR_RETURN(statistics->counts_, ops->device().Allocate(bytes, "expert load counts"));
  if (options.num_ranks > 1) {
    ASSIGN_OR_RETURN(statistics->gathered_,
                     ops->device().Allocate(bytes * options.num_ranks, "expert load counts"));
  }
  return statistics;
}

void LoadStatistics::Record(int32_t layer, ConstTensorView ids) {
  TESSERA_CHECK(layer >= 0 && layer < options_.num_layers);
  ops_->CountChoices(
      {.ids = ids, .counts = Counts(static_cast<int64_t>(At(layer)), options_.num_experts)});
}

void LoadStatistics::RecordRows(int32_t layer, ConstTensorView num_rows) {
  TESSERA_CHECK(layer >= 0 && layer < options_.num_layers);
  ops_->CountRows({.num_rows = num_rows, .total = Counts(NumChoices() + layer, 1)});
}

void LoadStatistics::SumRows(TensorView rows) const {
  ops_->SumCounts({.counts = Counts(NumChoices(), options_.num_layers), .sum = rows});
}

void LoadStatistics::Exchange(Communicator* communicator) {
  TESSERA_CHECK((communicator == nullptr ? 1 : communicator->size()) == options_.num_ranks);
  const DeviceBuffer& all = options_.num_ranks == 1 ? counts_ : gathered_;
  if (communicator != nullptr) {
    communicator->AllGather(counts_.View(DType::kI64, {NumCounts()}),
                            all.View(DType::kI64, {options_.num_ranks, NumCounts()}));
  }
  std::vector<int64_t> host(static_cast<size_t>(NumCounts()) * options_.num_ranks);
  ops_->device().Download(host.data(), all.data(), host.size() * sizeof(int64_t));
  const MutexLock lock(&mutex_);
  arriving_.push_back(std::move(host));  // its elements stay where they are
}

void LoadStatistics::Forget() {
  {
    const MutexLock lock(&mutex_);
    TESSERA_CHECK(arriving_.empty());
  }
  const std::vector<int64_t> none(static_cast<size_t>(NumCounts()));
  ops_->device().Upload(counts_.data(), none.data(), none.size() * sizeof(int64_t));
  std::fill(counted_.begin(), counted_.end(), 0);
  std::fill(smoothed_.begin(), smoothed_.end(), 0);
  std::fill(totals_.begin(), totals_.end(), 0);
  std::fill(rank_rows_.begin(), rank_rows_.end(), 0);
  num_exchanges_ = 0;
}

void LoadStatistics::Collect() {
  const std::vector<int64_t> before = std::move(counted_);
  {
    const MutexLock lock(&mutex_);
    TESSERA_CHECK(!arriving_.empty());
    counted_ = std::move(arriving_.front());
    arriving_.pop_front();
  }
  const auto fresh_count = [&](int64_t rank, int64_t i) {
    const int64_t at = rank * NumCounts() + i;
    return counted_[at] - before[at];
  };
  // The first interval counts fully: smoothing from zero would take long to become true.
  const double fresh = num_exchanges_ == 0 ? 1.0 : options_.smoothing;
  for (int64_t i = 0; i < NumChoices(); ++i) {
    int64_t sum = 0;
    for (int64_t r = 0; r < options_.num_ranks; ++r) sum += fresh_count(r, i);
    totals_[i] += sum;
    smoothed_[i] += fresh * (static_cast<double>(sum) - smoothed_[i]);
  }
  for (int64_t layer = 0; layer < options_.num_layers; ++layer) {
    for (int64_t r = 0; r < options_.num_ranks; ++r) {
      rank_rows_[layer * options_.num_ranks + r] = fresh_count(r, NumChoices() + layer);
    }
  }
  ++num_exchanges_;
}

absl::Span<const int64_t> LoadStatistics::RankRows(int32_t layer) const {
  return absl::MakeSpan(rank_rows_)
      .subspan(static_cast<size_t>(layer) * options_.num_ranks, options_.num_ranks);
}

absl::Span<const double> LoadStatistics::Loads(int32_t layer) const {
  return absl::MakeSpan(smoothed_).subspan(At(layer), options_.num_experts);
}

absl::Span<const int64_t> LoadStatistics::Totals(int32_t layer) const {
  return absl::MakeSpan(totals_).subspan(At(layer), options_.num_experts);
}

double LoadStatistics::BalanceOf(int32_t layer, const Placement& placement) const {
  return BalanceRatio(PredictRankLoads(placement, Loads(layer)));
}

}  // namespace tessera
