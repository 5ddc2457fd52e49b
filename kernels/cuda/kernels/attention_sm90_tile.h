// The shape of a block of attention_sm90.cu, and what it holds in shared memory.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_SM90_TILE_H_
#define TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_SM90_TILE_H_

#include "kernels/cuda/kernels/attention_rows.h"
#include "kernels/cuda/kernels/attention_sm90.h"
#include "kernels/cuda/kernels/attention_tile.h"
#include "kernels/cuda/kernels/sm90.h"
#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda::attention {

static_assert(kThreads == sm90::kGroupThreads);

// What all threads of a warpgroup have found out, kept in shared memory: registers are for results.
struct Kept {
  TileRows rows;
  SeenByAll seen;
  KeyTiles tiles;

  // Field by field, so that no compiler copies past the emulator.
  SIMT_DEVICE void Keep(const TileRows& found, const SeenByAll& all, const KeyTiles& keys) {
    rows.sequence = found.sequence;
    rows.token0 = found.token0;
    rows.first = found.first;
    rows.count = found.count;
    rows.position0 = found.position0;
    rows.begin = found.begin;
    rows.end = found.end;
    seen.begin = all.begin;
    seen.end = all.end;
    tiles.begin = keys.begin;
    tiles.end = keys.end;
    tiles.spans = keys.spans;
  }
};

// kDimension: width of a head in shared memory, zeros beyond the real one. kGroups: warpgroups that
// multiply; the last one loads.
template <int kDimension, int kGroups>
struct Sm90Tile {
  using Element = Bf16;
  static constexpr int kDim = kDimension;
  static constexpr int kConsumers = kGroups;
  static constexpr int kRows = kConsumers * kTileRows;  // of queries
  static constexpr int kKeys = kSm90Keys;
  static constexpr int kPerChunk = 8;
  static constexpr int kChunks = kDim / kPerChunk;  // of a row
  static constexpr int kKeyFragments = kKeys / 8;
  static constexpr int kDimFragments = kDim / 8;
  static constexpr int kTilesPerSpan = kSpan / kKeys;
  static constexpr int kCopiesAtATime = 1;
  // Queries, keys and values lie in panels of 64 rows of 64 elements.
  static constexpr int kPanels = kDim / kSm90HeadColumns;
  static constexpr int kPanelElements = kKeys * kSm90HeadColumns;
  static_assert(kKeys == kTileRows);

  static constexpr int kBlockThreads = (kConsumers + 1) * sm90::kGroupThreads;
  static constexpr int kBlocks = kConsumers == 1 ? 2 : 1;  // per multiprocessor
  // Whether a tile is weighed while values are multiplied: where blocks share the registers, the
  // probabilities of both do not fit, and memory is what is waited for.
  static constexpr bool kOverlaps = kBlocks == 1;
  static constexpr int kStageBytes = 2 * kKeys * kDim * static_cast<int>(sizeof(Bf16));
  static constexpr int kQueryBytes = kRows * kDim * static_cast<int>(sizeof(Bf16));
  static constexpr int kBytes = (kBlocks == 2 ? 112 : 224) * 1024;  // but barriers
  static constexpr int kStagesThatFit = (kBytes - kQueryBytes) / kStageBytes;
  static constexpr int kStages = kStagesThatFit < 6 ? kStagesThatFit : 6;
  // 128 threads of the first and the others of the second are what a block begins with.
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = kConsumers == 1 ? 216 : 232;

  struct Stage {
    alignas(1024) Bf16 k[kKeys * kDim];
    alignas(1024) Bf16 v[kKeys * kDim];
  };
  struct Shared {
    alignas(1024) Bf16 q[kConsumers][kTileRows * kDim];
    Stage stages[kStages];
    uint64_t full[kStages];
    uint64_t empty[kStages];
    Kept kept[kConsumers + 1];  // by warpgroup; the last one's rows are all of the block's
    uint32_t last[kConsumers];
  };

  // The first of the kPerChunk elements of a chunk in a tile of 64 rows.
  SIMT_DEVICE static int ElementAt(int row, int chunk) {
    constexpr int kLineChunks = kSm90HeadColumns / kPerChunk;
    return chunk / kLineChunks * kPanelElements +
           SwizzledChunk<kLineChunks>(row, chunk % kLineChunks) * kPerChunk;
  }
};

}  // namespace tessera::cuda::attention

#endif  // TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_SM90_TILE_H_
