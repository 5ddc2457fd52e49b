// Counting across a block whose warps own consecutive segments of a list, in the list's order. Only
// integers are added, so results do not depend on how many warps there are.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_BLOCK_SCAN_H_
#define TESSERA_KERNELS_CUDA_KERNELS_BLOCK_SCAN_H_

#include <cstdint>

#include "kernels/cuda/simt/launch.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

inline constexpr int kMaxScanThreads = 512;
inline constexpr int kMaxScanWarps = kMaxScanThreads / simt::kWarpSize;

SIMT_DEVICE int Lane() { return static_cast<int>(threadIdx.x) % simt::kWarpSize; }
SIMT_DEVICE int Warp() { return static_cast<int>(threadIdx.x) / simt::kWarpSize; }

// The warp's segment of a list, in steps of a warp's width.
struct Segment {
  int32_t begin;
  int32_t end;
};
SIMT_DEVICE Segment SegmentOfWarp(int32_t size) {
  const int warps = static_cast<int>(blockDim.x) / simt::kWarpSize;
  const int32_t steps = simt::CeilDiv(size, simt::kWarpSize);
  const int32_t length = simt::CeilDiv(steps, warps) * simt::kWarpSize;
  const int32_t begin = Warp() * length < size ? Warp() * length : size;
  return {.begin = begin, .end = size - begin < length ? size : begin + length};
}

// How many lanes before this one have their bit set.
SIMT_DEVICE int32_t LanesBefore(uint32_t ballot) { return __popc(ballot & ((1U << Lane()) - 1)); }

// The sum of the values of the lanes before this one; `total` becomes that of all.
SIMT_DEVICE int32_t SumBefore(int32_t value, int32_t& total) {
  int32_t sum = value;
#pragma unroll
  for (int lanes = 1; lanes < simt::kWarpSize; lanes *= 2) {
    const int32_t other = __shfl_up_sync(simt::kFullMask, sum, lanes);
    if (Lane() >= lanes) sum += other;
  }
  total = __shfl_sync(simt::kFullMask, sum, simt::kWarpSize - 1);
  return sum - value;
}

// What one warp has counted, per kind of thing.
template <int kKinds>
struct WarpCounts {
  int32_t counts[kMaxScanWarps][kKinds];
};

struct BlockCount {
  int32_t before;  // in the segments of the warps before this one
  int32_t total;
};

// Called by all threads after the warps' counts were written and __syncthreads.
template <int kKinds>
SIMT_DEVICE BlockCount SumOverWarps(const WarpCounts<kKinds>& shared, int kind) {
  BlockCount count{0, 0};
  const int warps = static_cast<int>(blockDim.x) / simt::kWarpSize;
  for (int warp = 0; warp < warps; ++warp) {
    if (warp == Warp()) count.before = count.total;
    count.total += shared.counts[warp][kind];
  }
  return count;
}

// Threads for a list: a warp per 128 entries, up to the largest block.
inline int ScanThreads(int64_t size) {
  const int64_t warps = simt::CeilDiv<int64_t>(size, 4 * simt::kWarpSize);
  const int64_t used = warps < 1 ? 1 : warps < kMaxScanWarps ? warps : kMaxScanWarps;
  return static_cast<int>(used) * simt::kWarpSize;
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_BLOCK_SCAN_H_
