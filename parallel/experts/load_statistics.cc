#include "parallel/experts/load_statistics.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {

LoadStatistics::LoadStatistics(Device* device, const LoadStatisticsOptions& options)
    : device_(device),
      options_(options),
      smoothed_(static_cast<size_t>(NumChoices())),
      totals_(static_cast<size_t>(NumChoices())),
      rank_rows_(static_cast<size_t>(options.num_layers) * options.num_ranks) {}

absl::StatusOr<std::unique_ptr<LoadStatistics>> LoadStatistics::Create(
    Device* device, const LoadStatisticsOptions& options) {
  if (options.num_layers < 1 || options.num_experts < 1 || options.num_ranks < 1 ||
      !(options.smoothing > 0 && options.smoothing <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expert load statistics need at least one layer, expert and rank and a smoothing in (0, ",
        "1]; got ", options.num_layers, ", ", options.num_experts, ", ", options.num_ranks, ", ",
        options.smoothing));
  }
  std::unique_ptr<LoadStatistics> statistics(new LoadStatistics(device, options));
  const size_t bytes = statistics->NumCounts() * sizeof(int64_t);
  ASSIGN_OR_RETURN(statistics->counts_, device->Allocate(bytes, "expert load counts"));
  if (options.num_ranks > 1) {
    ASSIGN_OR_RETURN(statistics->gathered_,
                     device->Allocate(bytes * options.num_ranks, "expert load counts"));
  }
  return statistics;
}

void LoadStatistics::Record(int32_t layer, ConstTensorView ids, ConstTensorView num_tokens) {
  TESSERA_CHECK(layer >= 0 && layer < options_.num_layers && ids.contiguous());
  device_->Run([this, layer, ids, num_tokens] {
    const auto* chosen = static_cast<const int32_t*>(device_->Access(ids.data()));
    auto* counts = static_cast<int64_t*>(device_->Access(counts_.data())) + At(layer);
    int64_t tokens = ids.dim(0);
    if (!num_tokens.empty()) {
      const auto* used = static_cast<const int32_t*>(device_->Access(num_tokens.data()));
      tokens = std::clamp<int64_t>(*used, 0, tokens);
    }
    for (int64_t i = 0; i < tokens * ids.row_size(); ++i) {
      if (chosen[i] >= 0 && chosen[i] < options_.num_experts) ++counts[chosen[i]];
    }
    return absl::OkStatus();
  });
}

void LoadStatistics::RecordRows(int32_t layer, ConstTensorView num_rows) {
  TESSERA_CHECK(layer >= 0 && layer < options_.num_layers && num_rows.num_elements() == 1);
  device_->Run([this, layer, num_rows] {
    const int32_t rows = *static_cast<const int32_t*>(device_->Access(num_rows.data()));
    static_cast<int64_t*>(device_->Access(counts_.data()))[NumChoices() + layer] += rows;
    own_rows_ += rows;
    return absl::OkStatus();
  });
}

void LoadStatistics::Exchange(Communicator* communicator) {
  TESSERA_CHECK((communicator == nullptr ? 1 : communicator->size()) == options_.num_ranks);
  if (communicator != nullptr) {
    communicator->AllGather(counts_.View(DType::kI64, {NumCounts()}),
                            gathered_.View(DType::kI64, {options_.num_ranks, NumCounts()}));
  }
  device_->Run([this] {
    auto* counts = static_cast<int64_t*>(device_->Access(counts_.data()));
    Fold(options_.num_ranks == 1 ? counts
                                 : static_cast<const int64_t*>(device_->Access(
                                       static_cast<const void*>(gathered_.data()))));
    std::fill_n(counts, NumCounts(), 0);
    return absl::OkStatus();
  });
}

void LoadStatistics::Fold(const int64_t* all_ranks) {
  // The first interval counts fully: smoothing from zero would take long to become true.
  const double fresh = num_exchanges_ == 0 ? 1.0 : options_.smoothing;
  for (int64_t i = 0; i < NumChoices(); ++i) {
    int64_t sum = 0;
    for (int64_t r = 0; r < options_.num_ranks; ++r) sum += all_ranks[r * NumCounts() + i];
    totals_[i] += sum;
    smoothed_[i] += fresh * (static_cast<double>(sum) - smoothed_[i]);
  }
  for (int64_t layer = 0; layer < options_.num_layers; ++layer) {
    for (int64_t r = 0; r < options_.num_ranks; ++r) {
      rank_rows_[layer * options_.num_ranks + r] =
          all_ranks[r * NumCounts() + NumChoices() + layer];
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
