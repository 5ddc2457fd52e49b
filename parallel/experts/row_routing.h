// Where the rows of a step go: a pure function of the router's choice and the placement, the same
// source on host and device. No allocation, no library types.
//
// Every rank has one chunk of `capacity` rows per destination. A token's row is sent at most once
// per destination, so capacity = tokens per rank is exact: nothing is ever dropped. Rows of a chunk
// are in token order.
#ifndef TESSERA_PARALLEL_EXPERTS_ROW_ROUTING_H_
#define TESSERA_PARALLEL_EXPERTS_ROW_ROUTING_H_

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define TESSERA_HOST_DEVICE __host__ __device__
#else
#define TESSERA_HOST_DEVICE
#endif

namespace tessera {

// Replicas of logical expert e are the physical slots replica_slots[replica_offsets[e] ..
// replica_offsets[e + 1]), ascending, at least one. Slot s lies on rank s / slots_per_rank.
struct PlacementView {
  const int32_t* replica_offsets = nullptr;  // [num_experts + 1]
  const int32_t* replica_slots = nullptr;    // [num_ranks * slots_per_rank]
  int32_t num_experts = 0;
  int32_t num_ranks = 0;
  int32_t slots_per_rank = 0;
};

// A replica on `rank` itself if there is one, else tokens take turns.
TESSERA_HOST_DEVICE inline int32_t ChooseSlot(const PlacementView& placement, int32_t expert,
                                              int32_t rank, int64_t token) {
  const int32_t begin = placement.replica_offsets[expert];
  const int32_t end = placement.replica_offsets[expert + 1];
  for (int32_t i = begin; i < end; ++i) {
    if (placement.replica_slots[i] / placement.slots_per_rank == rank) {
      return placement.replica_slots[i];
    }
  }
  return placement.replica_slots[begin + static_cast<int32_t>((rank + token) % (end - begin))];
}

// The replica that computes a choice when every rank holds every token (all-reduce mode): the same
// on all ranks, so exactly one of them computes it. Tokens take turns.
TESSERA_HOST_DEVICE inline int32_t SharedSlot(const PlacementView& placement, int32_t expert,
                                              int64_t token) {
  const int32_t begin = placement.replica_offsets[expert];
  const int32_t end = placement.replica_offsets[expert + 1];
  return placement.replica_slots[begin + static_cast<int32_t>(token % (end - begin))];
}

// What travels with a row: words of one int32 record.
//   0                     number of slots n (0 = unused row)
//   1                     token on the source rank
//   2 .. 2 + n            slots on the destination, in the order of the router's choice
//   2 + row_slots .. + n  their weights (bits of a float)
struct RowHeader {
  static constexpr int32_t kNumSlots = 0;
  static constexpr int32_t kToken = 1;
  static constexpr int32_t kSlots = 2;
};
TESSERA_HOST_DEVICE inline int32_t HeaderWords(int32_t row_slots) {
  return RowHeader::kSlots + 2 * row_slots;
}
TESSERA_HOST_DEVICE inline float HeaderWeight(const int32_t* header, int32_t row_slots, int32_t i) {
  float weight = 0;
  std::memcpy(&weight, header + RowHeader::kSlots + row_slots + i, sizeof(weight));
  return weight;
}

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
TESSERA_HOST_DEVICE inline int32_t InsertRow(int32_t* rows, int32_t used, int32_t row) {
  int32_t at = used;
  while (at > 0 && rows[at - 1] > row) --at;
  if (at > 0 && rows[at - 1] == row) return used;
  for (int32_t i = used; i > at; --i) rows[i] = rows[i - 1];
  rows[at] = row;
  return used + 1;
}

// Appends one token to the chunks. False when an expert does not exist or a token names one twice.
TESSERA_HOST_DEVICE inline bool PlanToken(const PlanInput& in, int64_t token,
                                          const PlanOutput& out) {
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
TESSERA_HOST_DEVICE inline bool PlanDispatch(const PlanInput& in, const PlanOutput& out) {
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
TESSERA_HOST_DEVICE inline void ClearUnusedHeaders(const PlanInput& in, const PlanOutput& out) {
  const int32_t words = HeaderWords(in.row_slots);
  for (int64_t r = 0; r < in.placement.num_ranks; ++r) {
    for (int64_t row = out.send_counts[r]; row < in.capacity; ++row) {
      out.headers[(r * in.capacity + row) * words + RowHeader::kNumSlots] = 0;
    }
  }
}

}  // namespace tessera

#endif  // TESSERA_PARALLEL_EXPERTS_ROW_ROUTING_H_
