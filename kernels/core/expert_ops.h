// The bookkeeping of mixture-of-experts layers as operations of a device: counting choices, finding
// slots, sending rows to the ranks that hold their experts and bringing results back. They live
// below kernels/ops.h because parallel/ needs them; every backend's Ops implements them.
//
// Every result is defined by counts of what comes before, never by a loop's state, so that a device
// computes it with scans and one thread per token, row or pair. "Before" is the order of tokens,
// then of choices; of received rows: of sources, then of the rows of their chunk.
//
// Letters: R ranks, T tokens of this rank, k experts per token, H hidden size, C rows of a chunk, E
// logical experts, S expert slots per rank, m = min(k, S) most slots of one row, n = min(k, R) most
// rows of one token, W = HeaderWords(m). Index arrays are contiguous and int = DType::kI32. Rows
// are kF32 or kBF16; sums of rows are fp32, rounded to the row type once at the end. Rows and
// entries that a definition does not name are not written.
//
// What the router or a peer sends is checked where it is used. Impossible data (marked INTERNAL
// below) is a failure of the device: Synchronize() returns INTERNAL from then on, outputs of that
// operation are undefined but within their bounds. A host device executes nothing behind it; a GPU
// keeps a sticky error word and must leave outputs that are harmless to what follows: no rows.
#ifndef TESSERA_KERNELS_CORE_EXPERT_OPS_H_
#define TESSERA_KERNELS_CORE_EXPERT_OPS_H_

#include <algorithm>
#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/row_routing.h"
#include "kernels/core/tensor.h"

namespace tessera {

// counts[e] += choices of expert e. Ids outside [0, E) are not counted.
struct CountChoicesArgs {
  ConstTensorView ids;  // [T, k] int
  TensorView counts;    // [E] i64
};

// *total += *num_rows.
struct CountRowsArgs {
  ConstTensorView num_rows;  // [1] int
  TensorView total;          // [1] i64
};

// *sum = the sum of all counts.
struct SumCountsArgs {
  ConstTensorView counts;  // [n] i64
  TensorView sum;          // [1] i64
};

// A placement in device memory; see PlacementView.
struct PlacementTensors {
  ConstTensorView replica_offsets;  // [E + 1] int
  ConstTensorView replica_slots;    // [R S] int
  int32_t num_ranks = 0;
  int32_t slots_per_rank = 0;

  int32_t num_experts() const { return static_cast<int32_t>(replica_offsets.dim(0)) - 1; }
  // Only inside kernels/.
  PlacementView view() const {
    return {.replica_offsets = replica_offsets.as<int32_t>(),
            .replica_slots = replica_slots.as<int32_t>(),
            .num_experts = num_experts(),
            .num_ranks = num_ranks,
            .slots_per_rank = slots_per_rank};
  }
};

// All-reduce mode: slots[t, j] = slot on `rank`, 0 .. S, when SharedSlot of choice j of token t
// lies there, else -1. Negative ids stay -1; an id >= E is INTERNAL.
struct LocalSlotsArgs {
  PlacementTensors placement;
  int32_t rank = 0;
  ConstTensorView ids;  // [T, k] int
  TensorView slots;     // [T, k] int
};

// The chunks of one exchange: every rank has one of C rows per destination, chunk d from row d * C
// on. A token's row is sent at most once per destination, so C = tokens per rank is exact: nothing
// is ever dropped. Chunks of results have C * m rows.
struct DispatchShape {
  int32_t num_ranks = 1;       // R
  int32_t slots_per_rank = 0;  // S
  int32_t top_k = 0;           // k
  int64_t capacity = 0;        // C

  int32_t row_slots() const { return std::min(top_k, slots_per_rank); }  // m
  int32_t rows_per_token() const { return std::min(top_k, num_ranks); }  // n
  int64_t num_rows() const { return num_ranks * capacity; }
  int64_t num_results() const { return num_rows() * row_slots(); }
};

// Where the rows of this rank's tokens go. Choice (t, j) goes to the slot that ChooseSlot names, on
// its rank d; choices with a negative id go nowhere. A token is sent to d when one of its choices
// is.
//   send_counts[d]  tokens sent to d
//   pair_counts[d]  choices that go to d
//   send_tokens[r]  r = d * C + (tokens sent to d before t): the token t
//   headers[r]      its record: the slots of its choices that go to d, in order
//   token_rows[t]   the rows r of token t, ascending, then -1
//   pair_rows[t, j] d * C * m + (choices that go to d before (t, j)); -1 for a choice without
//   expert
// With clear_unused the number of slots of every row behind a chunk's last one becomes 0.
// INTERNAL for an id >= E and for a token with more than m choices on one rank.
struct PlanDispatchArgs {
  DispatchShape shape;
  PlacementTensors placement;
  int32_t rank = 0;
  bool clear_unused = false;
  ConstTensorView ids;      // [T, k] int, T <= C
  ConstTensorView weights;  // [T, k] f32
  TensorView send_counts;   // [R] int
  TensorView pair_counts;   // [R] int
  TensorView send_tokens;   // [R C] int
  TensorView headers;       // [R C, W] int
  TensorView token_rows;    // [T, n] int
  TensorView pair_rows;     // [T, k] int
};

// chunks[r] = x[send_tokens[r]] for the planned rows.
struct PackRowsArgs {
  DispatchShape shape;
  ConstTensorView x;            // [T, H]
  ConstTensorView send_counts;  // [R] int
  ConstTensorView send_tokens;  // [R C] int
  TensorView chunks;            // [R C, H]
};

// Stable counting sort of the (row, slot) pairs of the received rows by slot. A pair is row r of
// chunk s, one of its first recv_counts[s], with entry i of its header's slots.
//   offsets[e]         pairs with a slot < e; offsets[S] all of them
//   row_index[p]       the row of the pair in place p = offsets[slot] + (pairs of that slot before)
//   sorted_rows[r, i]  that place p
//   pair_counts[s]     pairs of chunk s
//   result_rows[r]     s * C * m + (pairs of chunk s before row r)
// Whole chunks came (`padded`): the first unused header ends a chunk and recv_counts is written.
// INTERNAL for a count outside [0, C], a header with none or more than m slots, a slot outside
// [0, S).
struct SortRowsArgs {
  DispatchShape shape;
  bool padded = false;
  ConstTensorView headers;  // [R C, W] int
  TensorView recv_counts;   // [R] int
  TensorView pair_counts;   // [R] int
  TensorView offsets;       // [S + 1] int
  TensorView row_index;     // [R C m] int
  TensorView sorted_rows;   // [R C, m] int
  TensorView result_rows;   // [R C] int
};

// One row of results per received row: chunks[r] = sum over ascending i of its slots' weight *
// y[sorted_rows[r, i]].
struct SumResultsArgs {
  DispatchShape shape;
  ConstTensorView headers;      // [R C, W] int
  ConstTensorView recv_counts;  // [R] int
  ConstTensorView sorted_rows;  // [R C, m] int
  ConstTensorView y;            // [>= R C m, H]
  TensorView chunks;            // [R C, H]
};

// One row of results per pair: chunks[result_rows[r] + i] = y[sorted_rows[r, i]].
struct PackResultsArgs {
  DispatchShape shape;
  ConstTensorView headers;      // [R C, W] int
  ConstTensorView recv_counts;  // [R] int
  ConstTensorView sorted_rows;  // [R C, m] int
  ConstTensorView result_rows;  // [R C] int
  ConstTensorView y;            // [>= R C m, H]
  TensorView chunks;            // [R C m, H]
};

// INTERNAL unless every rank returned as many rows as went there.
struct CheckReturnArgs {
  ConstTensorView sent;      // [R] int
  ConstTensorView returned;  // [R] int
};

// out[t] = sum over the token's rows, ascending; zeros without any.
struct AddRanksArgs {
  ConstTensorView chunks;      // [R C, H]
  ConstTensorView token_rows;  // [T, n] int
  TensorView out;              // [T, H]
};

// out[t] = sum over ascending j of weights[t, j] * y[positions[t, j]]; pairs at -1 are skipped.
struct MoeFinalizeArgs {
  ConstTensorView y;          // [R, H] act
  ConstTensorView positions;  // [T, k] int
  ConstTensorView weights;    // [T, k] f32
  TensorView out;             // [T, H] act
};

// Used by the thread that drives the device. Calls only enqueue.
class ExpertOps {
 public:
  virtual ~ExpertOps() = default;

  virtual Device& device() = 0;
  virtual void CountChoices(const CountChoicesArgs& args) = 0;
  virtual void CountRows(const CountRowsArgs& args) = 0;
  virtual void SumCounts(const SumCountsArgs& args) = 0;
  virtual void LocalSlots(const LocalSlotsArgs& args) = 0;
  virtual void PlanDispatch(const PlanDispatchArgs& args) = 0;
  virtual void PackRows(const PackRowsArgs& args) = 0;
  virtual void SortRows(const SortRowsArgs& args) = 0;
  virtual void SumResults(const SumResultsArgs& args) = 0;
  virtual void PackResults(const PackResultsArgs& args) = 0;
  virtual void CheckReturn(const CheckReturnArgs& args) = 0;
  virtual void AddRanks(const AddRanksArgs& args) = 0;
  virtual void MoeFinalize(const MoeFinalizeArgs& args) = 0;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_EXPERT_OPS_H_
