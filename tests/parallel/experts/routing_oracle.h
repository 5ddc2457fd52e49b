// The bookkeeping of dispatch as the serial loops that it once was: what the operations of every
// backend are compared with.
#ifndef TESSERA_TESTS_PARALLEL_EXPERTS_ROUTING_ORACLE_H_
#define TESSERA_TESTS_PARALLEL_EXPERTS_ROUTING_ORACLE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/core/expert_ops.h"
#include "kernels/core/row_routing.h"

namespace tessera::oracle {

struct PlanInput {
  const int32_t* ids = nullptr;    // [num_tokens, k] logical experts; negative: no expert
  const float* weights = nullptr;  // [num_tokens, k]
  int64_t num_tokens = 0;          // at most capacity
  int32_t k = 0;
  int32_t rank = 0;
  PlacementView placement;
  int64_t capacity = 0;
  int32_t row_slots = 0;  // most slots of one row: min(k, slots_per_rank)
};

// Chunk d begins at row d * capacity; of exact results at row d * capacity * row_slots.
struct PlanOutput {
  int32_t* send_counts = nullptr;  // [num_ranks] rows per destination
  int32_t* pair_counts = nullptr;  // [num_ranks] (token, choice) pairs per destination
  int32_t* send_tokens = nullptr;  // [num_ranks * capacity] token of each row
  int32_t* headers = nullptr;      // [num_ranks * capacity, HeaderWords]
  // Inverse maps: rows of a token, ascending in the destination, then -1; row of the exact result
  // of each choice, -1 without an expert.
  int32_t* token_rows = nullptr;  // [num_tokens, min(k, num_ranks)]
  int32_t* pair_rows = nullptr;   // [num_tokens, k]
};

// Keeps the first `used` entries of `rows` ascending and free of duplicates.
inline int32_t InsertRow(int32_t* rows, int32_t used, int32_t row) {
  int32_t at = used;
  while (at > 0 && rows[at - 1] > row) --at;
  if (at > 0 && rows[at - 1] == row) return used;
  for (int32_t i = used; i > at; --i) rows[i] = rows[i - 1];
  rows[at] = row;
  return used + 1;
}

// Appends one token to the chunks. False when an expert does not exist or a token names one twice.
inline bool PlanToken(const PlanInput& in, int64_t token, const PlanOutput& out) {
  const PlacementView& placement = in.placement;
  const int32_t words = HeaderWords(in.row_slots);
  const int32_t most_rows = in.k < placement.num_ranks ? in.k : placement.num_ranks;
  int32_t* rows = out.token_rows + token * most_rows;
  int32_t used = 0;
  for (int32_t j = 0; j < in.k; ++j) {
    const int64_t pair = token * in.k + j;
    out.pair_rows[pair] = -1;
    if (in.ids[pair] < 0) continue;
    if (in.ids[pair] >= placement.num_experts) return false;
    const int32_t slot = ChooseSlot(placement, in.ids[pair], in.rank, token);
    const int64_t to = slot / placement.slots_per_rank;
    const int64_t chunk = to * in.capacity;
    int32_t& count = out.send_counts[to];
    if (count == 0 || out.send_tokens[chunk + count - 1] != token) {
      out.send_tokens[chunk + count] = static_cast<int32_t>(token);
      int32_t* fresh = out.headers + (chunk + count) * words;
      fresh[RowHeader::kNumSlots] = 0;
      fresh[RowHeader::kToken] = static_cast<int32_t>(token);
      ++count;
    }
    int32_t* header = out.headers + (chunk + count - 1) * words;
    const int32_t n = header[RowHeader::kNumSlots];
    if (n >= in.row_slots) return false;
    header[RowHeader::kNumSlots] = n + 1;
    header[RowHeader::kSlots + n] = slot % placement.slots_per_rank;
    std::memcpy(header + RowHeader::kSlots + in.row_slots + n, in.weights + pair, sizeof(float));
    out.pair_rows[pair] = static_cast<int32_t>(chunk * in.row_slots + out.pair_counts[to]++);
    used = InsertRow(rows, used, static_cast<int32_t>(chunk + count - 1));
  }
  for (; used < most_rows; ++used) rows[used] = -1;
  return true;
}

// The whole plan. False as PlanToken; the outputs are then not usable.
inline bool PlanDispatch(const PlanInput& in, const PlanOutput& out) {
  for (int32_t r = 0; r < in.placement.num_ranks; ++r) {
    out.send_counts[r] = 0;
    out.pair_counts[r] = 0;
  }
  for (int64_t token = 0; token < in.num_tokens; ++token) {
    if (!PlanToken(in, token, out)) return false;
  }
  return true;
}

// Marks the rows behind the planned ones as unused, for exchanges of whole chunks.
inline void ClearUnusedHeaders(const PlanInput& in, const PlanOutput& out) {
  const int32_t words = HeaderWords(in.row_slots);
  for (int64_t r = 0; r < in.placement.num_ranks; ++r) {
    for (int64_t row = out.send_counts[r]; row < in.capacity; ++row) {
      out.headers[(r * in.capacity + row) * words + RowHeader::kNumSlots] = 0;
    }
  }
}

// What an expert rank derives from the headers it received; see SortRowsArgs.
struct ReceivedRows {
  const int32_t* headers = nullptr;
  int32_t* recv_counts = nullptr;
  int32_t* pair_counts = nullptr;
  int32_t* offsets = nullptr;
  int32_t* row_index = nullptr;
  int32_t* sorted_rows = nullptr;
  int32_t* result_rows = nullptr;
};

inline const int32_t* HeaderOf(const DispatchShape& shape, const ReceivedRows& rows, int64_t row) {
  return rows.headers + row * HeaderWords(shape.row_slots());
}

// Calls visit(row, header) for every used row, sources ascending, then tokens.
template <typename Visit>
void ForEachRow(const DispatchShape& shape, const ReceivedRows& rows, const Visit& visit) {
  for (int64_t s = 0; s < shape.num_ranks; ++s) {
    for (int64_t i = 0; i < rows.recv_counts[s]; ++i) {
      const int64_t row = s * shape.capacity + i;
      visit(row, HeaderOf(shape, rows, row));
    }
  }
}

inline void CountPadded(const DispatchShape& shape, const ReceivedRows& rows) {
  for (int64_t s = 0; s < shape.num_ranks; ++s) {
    int64_t count = 0;
    while (count < shape.capacity &&
           HeaderOf(shape, rows, s * shape.capacity + count)[RowHeader::kNumSlots] != 0) {
      ++count;
    }
    rows.recv_counts[s] = static_cast<int32_t>(count);
  }
}

// Headers come from peers: believe nothing. Counts the rows of every slot into offsets[slot + 1].
inline bool CountSlots(const DispatchShape& shape, const ReceivedRows& rows) {
  for (int64_t s = 0; s < shape.num_ranks; ++s) {
    int32_t pairs = 0;
    for (int64_t i = 0; i < rows.recv_counts[s]; ++i) {
      const int32_t* header = HeaderOf(shape, rows, s * shape.capacity + i);
      const int32_t n = header[RowHeader::kNumSlots];
      bool good = n >= 1 && n <= shape.row_slots();
      for (int32_t j = 0; good && j < n; ++j) {
        const int32_t slot = header[RowHeader::kSlots + j];
        good = slot >= 0 && slot < shape.slots_per_rank;
        if (good) ++rows.offsets[slot + 1];
      }
      if (!good) {
        return false;
      }
      rows.result_rows[s * shape.capacity + i] =
          static_cast<int32_t>(s * shape.capacity * shape.row_slots() + pairs);
      pairs += n;
    }
    rows.pair_counts[s] = pairs;
  }
  return true;
}

inline bool SortRows(const DispatchShape& shape, bool padded, const ReceivedRows& rows) {
  if (padded) CountPadded(shape, rows);
  std::fill_n(rows.offsets, shape.slots_per_rank + 1, 0);
  if (!CountSlots(shape, rows)) return false;
  for (int32_t e = 0; e < shape.slots_per_rank; ++e) rows.offsets[e + 1] += rows.offsets[e];
  std::vector<int32_t> next(rows.offsets, rows.offsets + shape.slots_per_rank);
  ForEachRow(shape, rows, [&](int64_t row, const int32_t* header) {
    for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
      const int32_t sorted = next[header[RowHeader::kSlots + j]]++;
      rows.row_index[sorted] = static_cast<int32_t>(row);
      rows.sorted_rows[row * shape.row_slots() + j] = sorted;
    }
  });
  return true;
}

}  // namespace tessera::oracle

#endif  // TESSERA_TESTS_PARALLEL_EXPERTS_ROUTING_ORACLE_H_
