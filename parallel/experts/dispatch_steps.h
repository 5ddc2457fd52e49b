// The steps of dispatch and combine on host memory, between planner and transport. Plain functions
// of their arguments; all pointers are to arrays whose shapes follow from RowLayout.
#ifndef TESSERA_PARALLEL_EXPERTS_DISPATCH_STEPS_H_
#define TESSERA_PARALLEL_EXPERTS_DISPATCH_STEPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/core/dtype.h"
#include "parallel/experts/row_routing.h"

namespace tessera {

// R ranks with chunks of C rows each; rows of H elements; at most `row_slots` experts per row.
struct RowLayout {
  int32_t num_ranks = 1;
  int32_t slots_per_rank = 0;
  int32_t top_k = 0;
  int32_t row_slots = 0;
  int64_t capacity = 0;
  int64_t hidden = 0;
  DType dtype = DType::kF32;

  int64_t num_rows() const { return num_ranks * capacity; }
  int64_t row_bytes() const { return hidden * static_cast<int64_t>(SizeOf(dtype)); }
  int32_t token_row_slots() const { return top_k < num_ranks ? top_k : num_ranks; }
};

// A matrix of the layout's rows whose rows lie `stride_bytes` apart.
struct ConstRows {
  const char* data = nullptr;
  int64_t stride_bytes = 0;
  const char* operator[](int64_t row) const { return data + row * stride_bytes; }
};
struct Rows {
  char* data = nullptr;
  int64_t stride_bytes = 0;
  char* operator[](int64_t row) const { return data + row * stride_bytes; }
};

// Source, before the exchange: chunks[d * C + i] = x[send_tokens[d * C + i]] for i <
// send_counts[d].
void PackRows(const RowLayout& layout, const ConstRows& x, const PlanOutput& plan,
              const Rows& chunks);

// What an expert rank derives from the headers it received.
struct ReceivedRows {
  const int32_t* headers = nullptr;  // [R * C, HeaderWords]
  int32_t* recv_counts = nullptr;    // [R] rows per source
  int32_t* pair_counts = nullptr;    // [R] out: experts of those rows, summed
  int32_t* offsets = nullptr;        // [slots_per_rank + 1] out: sorted rows of each slot
  int32_t* row_index = nullptr;      // [R * C * row_slots] out: received row of each sorted row
  int32_t* sorted_row = nullptr;     // [R * C, row_slots] out: sorted row of each (row, slot)
};

// Stable counting sort of the (row, slot) pairs by slot. Whole chunks came (`padded`): the first
// unused header ends a chunk and recv_counts is written. INTERNAL when a header is impossible.
absl::Status SortRows(const RowLayout& layout, bool padded, const ReceivedRows& rows);

// Expert rank, after the experts: chunks[row] = sum over the row's slots, in order, of weight *
// y[sorted row], in fp32.
void SumResults(const RowLayout& layout, const ReceivedRows& rows, const ConstRows& y,
                const Rows& chunks);
// The same without adding: one row per (row, slot), chunk s from row s * C * row_slots.
void PackResults(const RowLayout& layout, const ReceivedRows& rows, const ConstRows& y,
                 const Rows& chunks);

// Source, after the exchange back. out[t] = sum over the token's rows, destinations ascending.
void AddRanks(const RowLayout& layout, int64_t num_tokens, const int32_t* token_rows,
              const ConstRows& chunks, const Rows& out);
// out[t] = sum over ascending j of weights[t, j] * chunks[pair_rows[t, j]], in fp32.
void AddChoices(const RowLayout& layout, int64_t num_tokens, const int32_t* pair_rows,
                const float* weights, const ConstRows& chunks, const Rows& out);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_EXPERTS_DISPATCH_STEPS_H_
