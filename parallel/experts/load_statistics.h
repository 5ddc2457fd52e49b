// How often every expert is chosen and how much every rank computes, per layer: counted on every
// rank, exchanged every some steps.
#ifndef TESSERA_PARALLEL_EXPERTS_LOAD_STATISTICS_H_
#define TESSERA_PARALLEL_EXPERTS_LOAD_STATISTICS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/device.h"
#include "kernels/core/expert_ops.h"
#include "kernels/core/mutex.h"
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

// Used by the thread that drives the device; destroyed after the work enqueued through it has run.
// Counts on the device only grow and the host takes the differences: nothing is reset but by
// Forget. Record, SumRows and Exchange only enqueue. Collect and the numbers below it may be
// another thread's: they are those of the last exchange collected, and ranks that exchange and
// collect in the same steps see the same numbers.
class LoadStatistics {
 public:
  // `ops` must outlive the statistics.
  static absl::StatusOr<std::unique_ptr<LoadStatistics>> Create(
      ExpertOps* ops, const LoadStatisticsOptions& options);

  // Counts the choices of one layer of one step, [T, k] int. Ids outside [0, num_experts) are not
  // counted.
  void Record(int32_t layer, ConstTensorView ids);
  // Counts rows that this rank's experts compute in one layer of one step.
  void RecordRows(int32_t layer, ConstTensorView num_rows /* [1] int */);
  // *rows = those of all layers since the start, on this rank.
  void SumRows(TensorView rows /* [1] i64 */) const;
  // Brings the counts of all ranks to the host. Collective; nullptr when there is one rank.
  void Exchange(Communicator* communicator);
  // As if created anew. All exchanges have been collected, and no operation is under way.
  void Forget();
  // Takes in the oldest exchange that has not been collected. The device has been synchronized
  // since.
  void Collect();

  // Smoothed choices per exchange interval, [num_experts]. Zeros before the first exchange.
  absl::Span<const double> Loads(int32_t layer) const;
  // Choices since the start, over all ranks, [num_experts].
  absl::Span<const int64_t> Totals(int32_t layer) const;
  // Rows that the experts of each rank computed between the last two exchanges, [num_ranks].
  absl::Span<const int64_t> RankRows(int32_t layer) const;
  int64_t num_exchanges() const { return num_exchanges_; }  // collected
  // Mean over maximum load of the ranks under a placement (see BalanceRatio).
  double BalanceOf(int32_t layer, const Placement& placement) const;

 private:
  LoadStatistics(ExpertOps* ops, const LoadStatisticsOptions& options);
  size_t At(int32_t layer) const { return static_cast<size_t>(layer) * options_.num_experts; }
  int64_t NumChoices() const { return int64_t{options_.num_layers} * options_.num_experts; }
  // Of one rank: the choices, then the rows of every layer.
  int64_t NumCounts() const { return NumChoices() + options_.num_layers; }
  // Entries [begin, begin + count) of them.
  TensorView Counts(int64_t begin, int64_t count) const {
    return counts_.View(DType::kI64, {count}, begin * sizeof(int64_t));
  }

  ExpertOps* ops_;
  const LoadStatisticsOptions options_;
  DeviceBuffer counts_;    // [NumCounts] i64 of this rank since the start
  DeviceBuffer gathered_;  // [num_ranks, NumCounts] i64; absent for one rank
  Mutex mutex_;
  // Counts of all ranks, [num_ranks, NumCounts], on their way to the host, oldest first.
  std::deque<std::vector<int64_t>> arriving_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> counted_;    // the same, as last collected
  std::vector<double> smoothed_;    // [num_layers, num_experts]
  std::vector<int64_t> totals_;     // [num_layers, num_experts]
  std::vector<int64_t> rank_rows_;  // [num_layers, num_ranks]
  int64_t num_exchanges_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_EXPERTS_LOAD_STATISTICS_H_
