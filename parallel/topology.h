// Who holds what: ranks, their groups, and the slice of every weight that a rank owns.
//
// World size R = tensor parallel (TP) x data parallel (DP). Ranks of one tensor-parallel group are
// neighbours: rank = dp_rank * TP + tp_rank. Nodes hold consecutive ranks, R / nodes each.
// Attention, dense MLP, embedding and lm_head are split over TP; experts are split over all R
// ranks: by columns of every expert, or (expert parallel) by whole experts.
#ifndef TESSERA_PARALLEL_TOPOLOGY_H_
#define TESSERA_PARALLEL_TOPOLOGY_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

struct LayoutRequest {
  int tensor_parallel = 1;
  int data_parallel = 1;
  bool expert_parallel = false;
  int nodes = 1;
};

// The sizes of a model that decide which layouts exist. Zero `experts` means a dense model.
struct ModelShape {
  int64_t num_q_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;      // dense MLP width; 0 when no layer is dense
  int64_t moe_intermediate = 0;  // width of one expert
  int64_t experts = 0;
  int64_t vocab = 0;
  // Slices of feed-forward columns come in multiples of this (block-quantised weights: 128).
  int64_t column_multiple = 1;
};

// OK when every slice is whole. INVALID_ARGUMENT otherwise; the message names the size that does
// not fit and the tensor- or data-parallel sizes that work for this model.
absl::Status ValidateLayout(const LayoutRequest& layout, const ModelShape& shape);

// Consecutive indices [begin, begin + count).
struct IndexRange {
  int64_t begin = 0;
  int64_t count = 0;
  int64_t end() const { return begin + count; }
  friend bool operator==(const IndexRange&, const IndexRange&) = default;
};

// One rank's place in the world. Immutable, cheap to copy.
class Topology {
 public:
  // INVALID_ARGUMENT when a size is below 1, nodes do not divide the world, or rank is outside it.
  static absl::StatusOr<Topology> Create(const LayoutRequest& layout, int rank);

  int rank() const { return rank_; }
  int world_size() const { return layout_.tensor_parallel * layout_.data_parallel; }
  int tp_size() const { return layout_.tensor_parallel; }
  int dp_size() const { return layout_.data_parallel; }
  int tp_rank() const { return rank_ % layout_.tensor_parallel; }
  int dp_rank() const { return rank_ / layout_.tensor_parallel; }
  int num_nodes() const { return layout_.nodes; }
  int ranks_per_node() const { return world_size() / layout_.nodes; }
  int node() const { return rank_ / ranks_per_node(); }
  bool expert_parallel() const { return layout_.expert_parallel; }

  // World ranks in group order; a rank's position in a group is its rank in the communicator.
  std::vector<int> TpGroup() const;
  std::vector<int> WorldGroup() const;

  // Slices of a model that passed ValidateLayout.
  IndexRange QHeads(const ModelShape& shape) const;
  // One head when TP > kv_heads: TP / kv_heads neighbouring ranks hold the same head.
  IndexRange KvHeads(const ModelShape& shape) const;
  // Columns of the dense gate and up projections.
  IndexRange Intermediate(const ModelShape& shape) const;
  // Columns of every expert held here: all of them with expert parallelism.
  IndexRange MoeIntermediate(const ModelShape& shape) const;
  // Experts (default placement) held here: all of them without expert parallelism.
  IndexRange Experts(const ModelShape& shape) const;
  // Rows of embedding and lm_head. Every rank has the same padded width VocabShardSize; the last
  // ones may hold fewer real rows (count), down to none.
  IndexRange Vocab(const ModelShape& shape) const;
  int64_t VocabShardSize(const ModelShape& shape) const;

 private:
  Topology(const LayoutRequest& layout, int rank) : layout_(layout), rank_(rank) {}

  LayoutRequest layout_;
  int rank_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_TOPOLOGY_H_
