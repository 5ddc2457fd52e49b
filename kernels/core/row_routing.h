// Where a token's row goes: pure functions of the router's choice and the placement, and the record
// that travels with the row. The same source on host and device: no allocation, no library types.
#ifndef TESSERA_KERNELS_CORE_ROW_ROUTING_H_
#define TESSERA_KERNELS_CORE_ROW_ROUTING_H_

#include <cstdint>

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
  return __builtin_bit_cast(float, header[RowHeader::kSlots + row_slots + i]);
}
TESSERA_HOST_DEVICE inline void SetHeaderSlot(int32_t* header, int32_t row_slots, int32_t i,
                                              int32_t slot, float weight) {
  header[RowHeader::kSlots + i] = slot;
  header[RowHeader::kSlots + row_slots + i] = __builtin_bit_cast(int32_t, weight);
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_ROW_ROUTING_H_
