// Which rank holds which expert. Logical experts are what the router chooses; physical slots are
// places for one expert's weights, slots_per_rank on every rank. An expert may have several slots
// (replicas), on different ranks.
#ifndef TESSERA_PARALLEL_EXPERTS_PLACEMENT_H_
#define TESSERA_PARALLEL_EXPERTS_PLACEMENT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/device.h"
#include "kernels/core/expert_ops.h"
#include "kernels/core/row_routing.h"

namespace tessera {

struct PlacementShape {
  int32_t num_experts = 0;
  int32_t num_ranks = 1;
  int32_t slots_per_rank = 0;
  int32_t num_slots() const { return num_ranks * slots_per_rank; }
  friend bool operator==(const PlacementShape&, const PlacementShape&) = default;
};

// A valid assignment. Immutable.
class Placement {
 public:
  static constexpr int32_t kSpare = -1;

  // slot_experts[s] is the expert of slot s or kSpare. INVALID_ARGUMENT unless every expert has a
  // replica and no rank holds two of the same.
  static absl::StatusOr<Placement> Create(const PlacementShape& shape,
                                          std::vector<int32_t> slot_experts);
  // Experts in order, evenly over the ranks, behind them `slots_per_rank - experts / ranks` spare
  // slots each. INVALID_ARGUMENT when experts are not a multiple of ranks or do not fit.
  static absl::StatusOr<Placement> Even(const PlacementShape& shape);

  const PlacementShape& shape() const { return shape_; }
  absl::Span<const int32_t> slot_experts() const { return slot_experts_; }
  int32_t ExpertOf(int32_t slot) const { return slot_experts_[slot]; }
  int32_t RankOf(int32_t slot) const { return slot / shape_.slots_per_rank; }
  // Slots of an expert, ascending.
  absl::Span<const int32_t> Replicas(int32_t expert) const;

  // For routing on the host; valid as long as this object.
  PlacementView view() const;
  absl::Span<const int32_t> replica_offsets() const { return replica_offsets_; }
  absl::Span<const int32_t> replica_slots() const { return replica_slots_; }

 private:
  Placement(const PlacementShape& shape, std::vector<int32_t> slot_experts);

  PlacementShape shape_;
  std::vector<int32_t> slot_experts_;
  std::vector<int32_t> replica_offsets_;
  std::vector<int32_t> replica_slots_;  // padded with kSpare to num_slots
};

// Predicted load of each rank when the replicas of an expert share its load evenly.
std::vector<double> PredictRankLoads(const Placement& placement, absl::Span<const double> loads);
// Mean over maximum of the rank loads: 1 is perfect. 1 when there is no load.
double BalanceRatio(absl::Span<const double> rank_loads);

// Fills all slots but `reserve` on every rank: replicates the expert with the largest load per
// replica, then packs longest first into the rank with the least load. Ranks are told apart only by
// what they hold, so the packed sets go to the ranks that hold most of them already, on the slots
// where they lie. loads[e] >= 0 for every expert. INVALID_ARGUMENT when the numbers do not agree.
absl::StatusOr<Placement> ProposePlacement(const Placement& current, absl::Span<const double> loads,
                                           int32_t reserve = 0);

// When replacing is worth moving weights.
struct RebalancePolicy {
  double trigger_ratio = 0.85;  // propose when mean / max falls below this
  double min_gain = 0.05;       // and the maximum is predicted to fall by at least this fraction
};
bool WorthMoving(const Placement& current, const Placement& proposed,
                 absl::Span<const double> loads, const RebalancePolicy& policy = {});

// A slot whose expert changes. `from_slot` holds the expert's weights in the old placement.
struct SlotChange {
  int32_t slot = 0;
  int32_t expert = 0;
  int32_t from_slot = 0;
};

// The placement of one layer in device memory. Staged and flipped by the thread that drives the
// device, between steps; ranks that flip before the same step use the same version in it.
class PlacementTable {
 public:
  // `device` must outlive the table.
  static absl::StatusOr<PlacementTable> Create(Device* device, Placement initial);

  const Placement& current() const { return current_; }
  int64_t version() const { return version_; }
  // INVALID_ARGUMENT unless the shape is that of the current placement.
  absl::Status Stage(Placement next);
  // Work enqueued from now on uses the staged placement. FAILED_PRECONDITION without one.
  absl::Status Flip();

  // The current placement, for operations.
  PlacementTensors tensors() const;

 private:
  PlacementTable(Device* device, Placement initial)
      : device_(device), current_(std::move(initial)) {}
  void Upload();

  Device* device_;
  Placement current_;
  std::vector<Placement> staged_;  // none or one
  DeviceBuffer buffer_;            // replica_offsets, then replica_slots
  int64_t version_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_EXPERTS_PLACEMENT_H_
