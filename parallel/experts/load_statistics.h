// How often every expert is chosen, per layer: counted on every rank, summed over the ranks every
// some steps, smoothed.
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
  // Sums the counts since the last exchange over all ranks and smooths them. Collective.
  void Exchange(Communicator& communicator);

  // Smoothed choices per exchange interval, [num_experts]. Zeros before the first exchange.
  absl::Span<const double> Loads(int32_t layer) const;
  // Choices since the start, over all ranks, [num_experts].
  absl::Span<const int64_t> Totals(int32_t layer) const;
  int64_t num_exchanges() const { return num_exchanges_; }
  // Mean over maximum load of the ranks under a placement (see BalanceRatio).
  double BalanceOf(int32_t layer, const Placement& placement) const;

 private:
  LoadStatistics(Device* device, const LoadStatisticsOptions& options);
  void Fold(const int64_t* all_ranks);
  size_t At(int32_t layer) const { return static_cast<size_t>(layer) * options_.num_experts; }
  int64_t NumCounts() const { return int64_t{options_.num_layers} * options_.num_experts; }

  Device* device_;
  const LoadStatisticsOptions options_;
  DeviceBuffer counts_;    // [num_layers, num_experts] i64 of this rank since the last exchange
  DeviceBuffer gathered_;  // [num_ranks, num_layers, num_experts] i64
  std::vector<double> smoothed_;
  std::vector<int64_t> totals_;
  int64_t num_exchanges_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_EXPERTS_LOAD_STATISTICS_H_
