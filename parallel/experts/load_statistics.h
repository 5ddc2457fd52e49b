// How often every expert is chosen and how much every rank computes, per layer: counted on every
// rank, exchanged every some steps.
#ifndef TESSERA_PARALLEL_EXPERTS_LOAD_STATISTICS_H_
#define TESSERA_PARALLEL_EXPERTS_LOAD_STATISTICS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "parallel/communicator.h"
#include "parallel/experts/placement.h"

namespace tessera {

struct LoadStatisticsOptions {
  int32_t num_layers = 0;
  int32_t num_experts = 0;
  int32_t num_ranks = 1;
  // Weight of what is new in the smoothed load, in (0, 1].
  double smoothing = 0.25;
};

// Used by the thread that drives the device, which must outlive it; destroyed after the work
// enqueued through it has run. Record and Exchange only enqueue. The numbers below them are those
// of the last exchange that had run when the device was last synchronized; ranks that exchange in
// the same steps see the same numbers.
class LoadStatistics {
 public:
  static absl::StatusOr<std::unique_ptr<LoadStatistics>> Create(
      Device* device, const LoadStatisticsOptions& options);

  // Counts the choices of one layer of one step. Ids outside [0, num_experts) are not counted, nor
  // are rows at or beyond num_tokens ([1] int, optional).
  void Record(int32_t layer, ConstTensorView ids,  // [T, k] int
              ConstTensorView num_tokens = {});
  // Counts rows that this rank's experts compute in one layer of one step.
  void RecordRows(int32_t layer, ConstTensorView num_rows /* [1] int */);
  // Sums the counts since the last exchange over all ranks and smooths the choices. Collective;
  // nullptr when there is one rank.
  void Exchange(Communicator* communicator);

  // Smoothed choices per exchange interval, [num_experts]. Zeros before the first exchange.
  absl::Span<const double> Loads(int32_t layer) const;
  // Choices since the start, over all ranks, [num_experts].
  absl::Span<const int64_t> Totals(int32_t layer) const;
  // Rows that the experts of each rank computed between the last two exchanges, [num_ranks].
  absl::Span<const int64_t> RankRows(int32_t layer) const;
  // Rows that this rank's experts have computed since the start, over all layers.
  int64_t own_rows() const { return own_rows_; }
  int64_t num_exchanges() const { return num_exchanges_; }
  // Mean over maximum load of the ranks under a placement (see BalanceRatio).
  double BalanceOf(int32_t layer, const Placement& placement) const;

 private:
  LoadStatistics(Device* device, const LoadStatisticsOptions& options);
  void Fold(const int64_t* all_ranks);
  size_t At(int32_t layer) const { return static_cast<size_t>(layer) * options_.num_experts; }
  int64_t NumChoices() const { return int64_t{options_.num_layers} * options_.num_experts; }
  // Of one rank: the choices, then the rows of every layer.
  int64_t NumCounts() const { return NumChoices() + options_.num_layers; }

  Device* device_;
  const LoadStatisticsOptions options_;
  DeviceBuffer counts_;    // [NumCounts] i64 of this rank since the last exchange
  DeviceBuffer gathered_;  // [num_ranks, NumCounts] i64; absent for one rank
  // Written where the device executes its queue.
  std::vector<double> smoothed_;    // [num_layers, num_experts]
  std::vector<int64_t> totals_;     // [num_layers, num_experts]
  std::vector<int64_t> rank_rows_;  // [num_layers, num_ranks]
  int64_t own_rows_ = 0;
  int64_t num_exchanges_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_EXPERTS_LOAD_STATISTICS_H_
