// A stable counting sort of a list of pairs by small keys: one block per key reads the whole list
// (from the L2 cache, but for the first), counts what lies before its key, and gives its own pairs
// their places by ballots. No block waits for another and nothing is added atomically.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_SORT_PAIRS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_SORT_PAIRS_H_

#include "kernels/cuda/kernels/block_scan.h"

namespace tessera::cuda {

enum SortKind : int { kBelow, kEqual, kInAll, kSortKinds };
using SortShared = WarpCounts<kSortKinds>;

struct KeyRange {
  int32_t first = 0;      // place of the key's first pair
  int32_t own_first = 0;  // place of the first pair of this warp's segment
  int32_t size = 0;       // pairs of the key
  int32_t all = 0;        // pairs of all keys
};

// List: Size() entries; KeyOf(i) in [0, keys), or negative for an entry that takes no part.
template <typename List>
SIMT_DEVICE KeyRange CountKey(const List& list, int32_t key) {
  SortShared& shared = simt::SharedMemory<SortShared>();
  int32_t below = 0;
  int32_t equal = 0;
  int32_t all = 0;
  const Segment segment = SegmentOfWarp(list.Size());
  for (int32_t i = segment.begin + Lane(); i < segment.end; i += simt::kWarpSize) {
    const int32_t own = list.KeyOf(i);
    below += own >= 0 && own < key ? 1 : 0;
    equal += own == key ? 1 : 0;
    all += own >= 0 ? 1 : 0;
  }
  const uint32_t sums[kSortKinds] = {
      __reduce_add_sync(simt::kFullMask, static_cast<uint32_t>(below)),
      __reduce_add_sync(simt::kFullMask, static_cast<uint32_t>(equal)),
      __reduce_add_sync(simt::kFullMask, static_cast<uint32_t>(all))};
  if (Lane() < kSortKinds) {
    shared.counts[Warp()][Lane()] = static_cast<int32_t>(Lane() == kBelow   ? sums[kBelow]
                                                         : Lane() == kEqual ? sums[kEqual]
                                                                            : sums[kInAll]);
  }
  __syncthreads();
  const int32_t first = SumOverWarps(shared, kBelow).total;
  const BlockCount own = SumOverWarps(shared, kEqual);
  return {.first = first,
          .own_first = first + own.before,
          .size = own.total,
          .all = SumOverWarps(shared, kInAll).total};
}

// list.Place(i, place) for every entry of the key, in order.
template <typename List>
SIMT_DEVICE void PlaceKey(const List& list, int32_t key, const KeyRange& range) {
  int32_t place = range.own_first;
  const Segment segment = SegmentOfWarp(list.Size());
  for (int32_t begin = segment.begin; begin < segment.end; begin += simt::kWarpSize) {
    const int32_t i = begin + Lane();
    const bool own = i < segment.end && list.KeyOf(i) == key;
    const uint32_t ballot = __ballot_sync(simt::kFullMask, own);
    if (own) list.Place(i, place + LanesBefore(ballot));
    place += __popc(ballot);
  }
}

// One block per key.
inline simt::LaunchShape SortShape(cudaStream_t stream, int32_t keys, int64_t size) {
  return {.grid = dim3(static_cast<unsigned>(keys)),
          .block = dim3(static_cast<unsigned>(ScanThreads(size))),
          .shared_bytes = sizeof(SortShared),
          .stream = stream,
          .dependent = true};
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_SORT_PAIRS_H_
