// Parts of gemm_sm90.cu: which tile a block works on, and where its results go.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_GEMM_SM90_TILE_H_
#define TESSERA_KERNELS_CUDA_KERNELS_GEMM_SM90_TILE_H_

#include "kernels/cuda/kernels/gemm_sm90.h"
#include "kernels/cuda/kernels/sm90.h"
#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda::sm90 {

namespace ptx = simt::ptx;
using simt::Bf16;
using simt::CeilDiv;

inline constexpr int kConsumers = 2;  // warpgroups that multiply; the last one loads
inline constexpr int kThreads = (kConsumers + 1) * kGroupThreads;
inline constexpr int kConsumerWarps = kConsumers * kGroupThreads / simt::kWarpSize;
inline constexpr int kStepK = kSm90BoxColumns;
inline constexpr int kStepChunks = kStepK * 2 / kChunkBytes;
inline constexpr int kChunkElements = kChunkBytes / 2;
inline constexpr int kUnitRows = 64;  // of the first operand of wgmma
inline constexpr int kRowsA = kConsumers * kUnitRows;
inline constexpr int kBandTiles = 16;

// The first operand, a, has 128 rows, the second, b, kRowsB; one is x, the other the weights.
// kTileCopied: x is copied by the threads, not by TMA. kTileBlocks: those of a cluster; they work
// on so many row tiles, one below the other, of the same columns, and share the weights.
template <bool kTileSwapped, int kTileRowsB, bool kTileCopied, int kTileBlocks = 1>
struct Tile {
  static constexpr int kBlocks = kTileBlocks;
  static constexpr bool kSwapped = kTileSwapped;
  static constexpr bool kCopied = kTileCopied;
  static constexpr int kRowsB = kTileRowsB;
  static constexpr int kRows = kSwapped ? kRowsB : kRowsA;  // of x
  static constexpr int kColumns = kSm90WeightRows;
  static_assert(kColumns == (kSwapped ? kRowsA : kRowsB));
  static constexpr int kValues = kRowsB / 2;  // accumulators of a thread
  static constexpr uint32_t kBytesA = kRowsA * kStepK * sizeof(Bf16);
  static constexpr uint32_t kBytesB = kRowsB * kStepK * sizeof(Bf16);
  static constexpr int kStagesThatFit = 208 * 1024 / (kBytesA + kBytesB);
  static constexpr int kStages = kStagesThatFit < 12 ? kStagesThatFit : 12;
  // What TMA brings to a stage, and who arrives there besides the thread that issues it.
  static constexpr uint32_t kWeightBytes = kSwapped ? kBytesA : kBytesB;
  static constexpr uint32_t kLoadedBytes = kCopied ? kWeightBytes : kBytesA + kBytesB;
  static constexpr uint32_t kAllBlocks = (1U << kBlocks) - 1;
  static constexpr int kCopyingWarps = kCopied ? kGroupThreads / simt::kWarpSize : 0;
  // 128 of the first and 256 of the second are what 384 threads begin with.
  static constexpr int kProducerRegisters = kCopied ? 72 : 40;
  static constexpr int kConsumerRegisters = kCopied ? 216 : 232;

  struct Shared {
    alignas(1024) Bf16 a[kStages][kRowsA * kStepK];
    alignas(1024) Bf16 b[kStages][kRowsB * kStepK];
    uint64_t full[kStages];
    uint64_t empty[kStages];
    uint32_t last[kConsumers];

    SIMT_DEVICE Bf16* X(int stage) { return kSwapped ? b[stage] : a[stage]; }
    SIMT_DEVICE Bf16* Weight(int stage) { return kSwapped ? a[stage] : b[stage]; }
  };
};

// How a launch cuts the problem; the same for all of its blocks.
struct Cut {
  int32_t segment_steps = 0;  // steps of K per segment
  int32_t segments = 1;
  bool split = false;  // each segment is a piece of work of its own
  bool wide_x = false;
  bool wide_pairs = false;  // pairs of results lie at boundaries of a pair
  int32_t row_tiles = 0;    // a multiple of the blocks of a cluster
  int32_t column_tiles = 0;
};

struct Call {
  GemmProblem problem;
  GemmSm90Maps maps;
  Cut cut;
};

// A tile, or with split K one segment of it.
struct Work {
  bool exists = false;
  int group = 0;
  int row0 = 0;  // of out
  int row_end = 0;
  int column0 = 0;
  int first_step = 0;
  int end_step = 0;
  int tile = 0;  // number of the tile
  int segment = 0;
};

// All lanes of a warp call it together.
template <typename Tile>
SIMT_DEVICE Work FindWork(const Call& call, int number) {
  const Cut& cut = call.cut;
  const GemmProblem& problem = call.problem;
  const int tiles = cut.row_tiles * cut.column_tiles;
  const int in_segment = number % tiles;
  const int band = in_segment / (kBandTiles * cut.column_tiles);
  const int in_band = in_segment - band * kBandTiles * cut.column_tiles;
  const int rows_left = cut.row_tiles - band * kBandTiles;
  const int band_rows = rows_left < kBandTiles ? rows_left : kBandTiles;
  const int row_tile = band * kBandTiles + in_band % band_rows;
  Work work;
  work.column0 = in_band / band_rows * Tile::kColumns;
  work.tile = in_segment;
  work.segment = number / tiles;
  const int steps = CeilDiv(problem.k, kStepK);
  work.first_step = work.segment * cut.segment_steps;
  const int last_step = work.first_step + cut.segment_steps;
  work.end_step = cut.split && last_step < steps ? last_step : steps;
  if (problem.offsets == nullptr) {
    work.exists = true;
    work.row0 = row_tile * Tile::kRows;
    work.row_end = problem.rows;
    return work;
  }
  const GroupTile found =
      FindGroupTile(problem.offsets, problem.num_groups, 1, Tile::kRows, row_tile);
  if (found.group < 0) return work;
  work.exists = problem.weights[found.group] != nullptr;
  work.group = found.group;
  work.row0 = found.begin + found.index * Tile::kRows;
  work.row_end = found.end;
  return work;
}

SIMT_HOST_DEVICE int WorkCount(const Cut& cut) {
  return cut.row_tiles * cut.column_tiles * (cut.split ? cut.segments : 1);
}

SIMT_DEVICE int Consumer() { return static_cast<int>(threadIdx.x) / kGroupThreads; }

// Where value i of a thread belongs in the tile of out.
template <typename Tile>
SIMT_DEVICE int RowOfA(int i) {
  const int thread = static_cast<int>(threadIdx.x);
  return thread / simt::kWarpSize * 16 + i % 4 / 2 * 8 + thread % simt::kWarpSize / 4;
}
template <typename Tile>
SIMT_DEVICE int RowOfB(int i) {
  return i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
}
template <typename Tile>
SIMT_DEVICE int RowOf(int i) {
  return Tile::kSwapped ? RowOfB<Tile>(i) : RowOfA<Tile>(i);
}
template <typename Tile>
SIMT_DEVICE int ColumnOf(int i) {
  return Tile::kSwapped ? RowOfA<Tile>(i) : RowOfB<Tile>(i);
}

// Exchanges the sums of the segments of a tile: true in the one warpgroup that then holds all.
template <typename Tile>
SIMT_DEVICE bool GatherSegments(const Call& call, const Work& work, uint32_t* last,
                                float (&values)[Tile::kValues]) {
  constexpr int kPairs = Tile::kValues / 2;
  constexpr int64_t kSegmentFloats = int64_t{kConsumers} * Tile::kValues * kGroupThreads;
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int rows = work.row_end - work.row0;
  float* partials = static_cast<float*>(call.problem.workspace.data) +
                    int64_t{work.tile} * call.cut.segments * kSegmentFloats +
                    int64_t{Consumer()} * Tile::kValues * kGroupThreads + thread * 2;
  float* own = partials + work.segment * kSegmentFloats;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    if (RowOf<Tile>(2 * p) < rows) {
      StoreTwo(own + p * kGroupThreads * 2, values[2 * p], values[2 * p + 1]);
    }
    values[2 * p] = 0.0F;
    values[2 * p + 1] = 0.0F;
  }
  uint32_t* counter = &call.problem.workspace.counters[work.tile * kConsumers + Consumer()];
  if (!WarpgroupArrivesLast(counter, call.cut.segments, last, 1 + Consumer())) return false;
  for (int segment = 0; segment < call.cut.segments; ++segment) {
    const float* from = partials + segment * kSegmentFloats;
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      if (RowOf<Tile>(2 * p) >= rows) continue;
      float low;
      float high;
      LoadTwo(low, high, from + p * kGroupThreads * 2);
      values[2 * p] += low;
      values[2 * p + 1] += high;
    }
  }
  return true;
}

SIMT_DEVICE void StoreValue(const GemmProblem& problem, int row, int column, float value) {
  if (column >= problem.n) return;
  if (problem.bias != nullptr) value += problem.bias[column];
  const int64_t at = row * problem.out_stride + column;
  if (problem.out_bf16) {
    static_cast<Bf16*>(problem.out)[at] = simt::ToBf16(value);
  } else {
    static_cast<float*>(problem.out)[at] = value;
  }
}

// Two neighbours of a row, at the boundary of a pair.
SIMT_DEVICE void StorePair(const GemmProblem& problem, int row, int column, float low, float high) {
  if (problem.bias != nullptr) {
    low += problem.bias[column];
    high += problem.bias[column + 1];
  }
  const int64_t at = row * problem.out_stride + column;
  if (problem.out_bf16) {
    *reinterpret_cast<uint32_t*>(static_cast<Bf16*>(problem.out) + at) = simt::PackBf16(low, high);
  } else {
    StoreTwo(static_cast<float*>(problem.out) + at, low, high);
  }
}

template <typename Tile>
SIMT_DEVICE void Store(const Call& call, const Work& work, const float (&values)[Tile::kValues]) {
  const GemmProblem& problem = call.problem;
#pragma unroll
  for (int i = 0; i < Tile::kValues; i += 2) {
    const int row = work.row0 + RowOf<Tile>(i);
    const int column = work.column0 + ColumnOf<Tile>(i);
    if constexpr (Tile::kSwapped) {
      if (row < work.row_end) StoreValue(problem, row, column, values[i]);
      if (row + 1 < work.row_end) StoreValue(problem, row + 1, column, values[i + 1]);
    } else {
      if (row >= work.row_end) continue;
      if (call.cut.wide_pairs && column + 1 < problem.n) {
        StorePair(problem, row, column, values[i], values[i + 1]);
      } else {
        StoreValue(problem, row, column, values[i]);
        StoreValue(problem, row, column + 1, values[i + 1]);
      }
    }
  }
}

}  // namespace tessera::cuda::sm90

#endif  // TESSERA_KERNELS_CUDA_KERNELS_GEMM_SM90_TILE_H_
