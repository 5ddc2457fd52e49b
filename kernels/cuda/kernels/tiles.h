// What the tiled kernels share: how tiles lie in shared memory, which tile a block has, and how the
// last of several blocks knows that it is the last.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_TILES_H_
#define TESSERA_KERNELS_CUDA_KERNELS_TILES_H_

#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

inline constexpr int kChunkBytes = 16;  // what one thread copies at a time

// Rows of kChunks 16-byte chunks in shared memory: the place, in chunks, of a chunk of a row. Eight
// rows read at the same chunk (one matrix of ldmatrix) touch all 32 banks once: chunks are permuted
// within a line of 128 bytes by the number of the line.
template <int kChunks>
SIMT_HOST_DEVICE constexpr int SwizzledChunk(int row, int chunk) {
  static_assert((kChunks & (kChunks - 1)) == 0, "a power of two");
  constexpr int kRowsPerLine = kChunks < 8 ? 8 / kChunks : 1;
  constexpr int kPerLine = 8 / kRowsPerLine;
  return row * kChunks + (chunk ^ (row / kRowsPerLine % kPerLine));
}

// Of four neighbours at a 16-byte boundary.
SIMT_DEVICE void LoadFour(float (&values)[4], const float* from) {
  const uint4 bits = simt::Load16(from);
  values[0] = simt::FloatBits(bits.x);
  values[1] = simt::FloatBits(bits.y);
  values[2] = simt::FloatBits(bits.z);
  values[3] = simt::FloatBits(bits.w);
}

// Two neighbours at an 8-byte boundary.
SIMT_DEVICE void LoadTwo(float& low, float& high, const float* from) {
  const uint2 bits = simt::Load8(from);
  low = simt::FloatBits(bits.x);
  high = simt::FloatBits(bits.y);
}
SIMT_DEVICE void StoreTwo(float* to, float low, float high) {
  simt::Store8(to, uint2{simt::BitsOf(low), simt::BitsOf(high)});
}

// Tile `index` of group `group`, whose items are [begin, end). group -1: there is no such tile.
struct GroupTile {
  int group = -1;
  int index = 0;
  int begin = 0;
  int end = 0;
};

// Items are sorted by group (offsets [groups + 1]); an item is `rows_per_item` rows, and each group
// is cut into tiles of `tile_rows` rows. All lanes of a warp call it together.
SIMT_DEVICE GroupTile FindGroupTile(const int32_t* offsets, int groups, int rows_per_item,
                                    int tile_rows, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
  for (int first = 0; first < groups; first += simt::kWarpSize) {
    const int group = first + lane < groups ? first + lane : groups;
    const int begin = offsets[group];
    const int end = offsets[group < groups ? group + 1 : groups];
    const int tiles = simt::CeilDiv((end - begin) * rows_per_item, tile_rows);
    int through = tiles;  // tiles of this group and of those before it
    for (int distance = 1; distance < simt::kWarpSize; distance *= 2) {
      const int before = __shfl_up_sync(simt::kFullMask, through, distance);
      if (lane >= distance) through += before;
    }
    const uint32_t holders = __ballot_sync(simt::kFullMask, tile < through);
    if (holders != 0) {
      const int holder = __ffs(static_cast<int>(holders)) - 1;
      return {.group = first + holder,
              .index = tile - __shfl_sync(simt::kFullMask, through - tiles, holder),
              .begin = __shfl_sync(simt::kFullMask, begin, holder),
              .end = __shfl_sync(simt::kFullMask, end, holder)};
    }
    tile -= __shfl_sync(simt::kFullMask, through, simt::kWarpSize - 1);
  }
  return {};
}

// The most tiles that FindGroupTile can find for `items` items in all.
inline int64_t MaxGroupTiles(int64_t items, int groups, int rows_per_item, int tile_rows) {
  const int64_t filled = items < groups ? items : groups;  // groups with an item, at most
  return filled + (items * rows_per_item - filled) / tile_rows;
}

// Whether this block is the last of `blocks` to get here; then it sees what all of them wrote to
// global memory before, and the counter is back at zero. `last` lies in shared memory.
SIMT_DEVICE bool ArrivesLast(uint32_t* counter, int blocks, uint32_t* last) {
  __syncthreads();
  if (threadIdx.x == 0) {
    *last = simt::ptx::AtomicAddAcqRel(counter, 1) == static_cast<uint32_t>(blocks) - 1 ? 1 : 0;
    if (*last != 0) *counter = 0;
  }
  __syncthreads();
  return *last != 0;
}

// The same for the threads of one warpgroup, which meet at the named barrier `barrier`; `parts` of
// them, in any block, count together.
SIMT_DEVICE bool WarpgroupArrivesLast(uint32_t* counter, int parts, uint32_t* last, int barrier) {
  constexpr int kWarpgroup = 128;
  simt::ptx::NamedBarrierSync(barrier, kWarpgroup);
  if (threadIdx.x % kWarpgroup == 0) {
    *last = simt::ptx::AtomicAddAcqRel(counter, 1) == static_cast<uint32_t>(parts) - 1 ? 1 : 0;
    if (*last != 0) *counter = 0;
  }
  simt::ptx::NamedBarrierSync(barrier, kWarpgroup);
  return *last != 0;
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_TILES_H_
