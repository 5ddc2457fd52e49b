// Where an attention kernel's results go, and how a launch cuts its work into blocks.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_RESULTS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_RESULTS_H_

#include "kernels/cuda/kernels/attention_rows.h"

namespace tessera::cuda::attention {

using simt::CeilDiv;

// Stores the results of two neighbouring columns, of which those below head_dim are real.
SIMT_DEVICE void StorePair(const AttentionProblem& problem, bool wide, const QueryRow& row,
                           int column, float low, float high) {
  if (column >= problem.head_dim) return;
  const bool both = column + 1 < problem.head_dim;
  const int64_t at = row.token * problem.out_stride + row.head * problem.head_dim + column;
  if (problem.act_bf16) {
    Bf16* to = static_cast<Bf16*>(problem.out) + at;
    if (both && wide) {
      *reinterpret_cast<uint32_t*>(to) = simt::PackBf16(low, high);
      return;
    }
    to[0] = simt::ToBf16(low);
    if (both) to[1] = simt::ToBf16(high);
    return;
  }
  float* to = static_cast<float*>(problem.out) + at;
  to[0] = low;
  if (both) to[1] = high;
}

// Calls body(row of the tile, half) for the lane's two rows that exist.
template <typename Body>
SIMT_DEVICE void ForLaneRows(const TileRows& rows, const Body& body) {
  const int warp = GroupThread() / simt::kWarpSize;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * kWarpRows + half * 8 + GroupThread() % 32 / 4;
    if (row < rows.count) body(row, half);
  }
}

template <typename Shape>
SIMT_DEVICE void StoreResults(const AttentionProblem& problem, const TileRows& rows, const Cut& cut,
                              const Softmax<Shape>& total) {
  ForLaneRows(rows, [&](int row, int half) {
    const QueryRow query = FindRow(problem, rows, row);
#pragma unroll
    for (int j = 0; j < Shape::kDimFragments; ++j) {
      StorePair(problem, cut.wide_pairs, query, j * 8 + GroupThread() % 4 * 2,
                total.values[j][half * 2] / total.sum[half],
                total.values[j][half * 2 + 1] / total.sum[half]);
    }
  });
}

// The softmax of one row over one span, as blocks hand it to each other: [token, query head, span]
// of maximum and sum, then of values [kDim].
template <typename Shape>
class Partials {
 public:
  SIMT_HOST_DEVICE Partials(const AttentionProblem& problem, int spans)
      : heads_(problem.q_heads),
        spans_(spans),
        softmax_(static_cast<float*>(problem.workspace.data)),
        values_(softmax_ + 2 * Count(problem, spans)) {}

  // Rounded so that the values begin at a 16-byte boundary.
  SIMT_HOST_DEVICE static int64_t Count(const AttentionProblem& problem, int spans) {
    return CeilDiv(int64_t{problem.tokens} * problem.q_heads * spans, int64_t{2}) * 2;
  }
  static size_t Bytes(const AttentionProblem& problem, int spans) {
    return static_cast<size_t>(Count(problem, spans)) * (2 + Shape::kDim) * sizeof(float);
  }

  SIMT_DEVICE float* SoftmaxAt(const QueryRow& row, int span) const {
    return softmax_ + Index(row, span) * 2;
  }
  SIMT_DEVICE float* ValuesAt(const QueryRow& row, int span) const {
    return values_ + Index(row, span) * Shape::kDim;
  }

 private:
  SIMT_DEVICE int64_t Index(const QueryRow& row, int span) const {
    return (row.token * heads_ + row.head) * spans_ + span;
  }

  const int heads_;
  const int spans_;
  float* const softmax_;
  float* const values_;
};

template <typename Shape>
SIMT_DEVICE void StorePartials(const AttentionProblem& problem, const TileRows& rows, int span,
                               const Partials<Shape>& partials, const Softmax<Shape>& softmax) {
  const int lane = GroupThread() % simt::kWarpSize;
  ForLaneRows(rows, [&](int row, int half) {
    const QueryRow query = FindRow(problem, rows, row);
    if (lane % 4 == 0) {
      StoreTwo(partials.SoftmaxAt(query, span), softmax.maximum[half], softmax.sum[half]);
    }
    float* values = partials.ValuesAt(query, span);
#pragma unroll
    for (int j = 0; j < Shape::kDimFragments; ++j) {
      StoreTwo(values + j * 8 + lane % 4 * 2, softmax.values[j][half * 2],
               softmax.values[j][half * 2 + 1]);
    }
  });
}

// Merges the spans of all rows in ascending order; a thread has four columns of a row at a time.
template <typename Shape>
SIMT_DEVICE void MergePartials(const AttentionProblem& problem, const TileRows& rows,
                               const Cut& cut, int spans, const Partials<Shape>& partials) {
  constexpr int kColumns = Shape::kDim / 4;
  for (int i = GroupThread(); i < rows.count * kColumns; i += kThreads) {
    const QueryRow query = FindRow(problem, rows, i / kColumns);
    const int column = i % kColumns * 4;
    float maximum = -kInfinity;
    float sum = 0.0F;
    float values[4] = {};
    for (int span = 0; span < spans; ++span) {
      float span_maximum;
      float span_sum;
      LoadTwo(span_maximum, span_sum, partials.SoftmaxAt(query, span));
      const MergeWeights weights = Merge(maximum, span_maximum);
      sum = Merged(weights, sum, span_sum);
      float added[4];
      LoadFour(added, partials.ValuesAt(query, span) + column);
#pragma unroll
      for (int c = 0; c < 4; ++c) values[c] = Merged(weights, values[c], added[c]);
    }
    StorePair(problem, cut.wide_pairs, query, column, values[0] / sum, values[1] / sum);
    StorePair(problem, cut.wide_pairs, query, column + 2, values[2] / sum, values[3] / sum);
  }
}

SIMT_DEVICE void StoreZeros(const AttentionProblem& problem, const TileRows& rows) {
  const int pairs = CeilDiv(problem.head_dim, 2);
  for (int i = GroupThread(); i < rows.count * pairs; i += kThreads) {
    StorePair(problem, false, FindRow(problem, rows, i / pairs), i % pairs * 2, 0.0F, 0.0F);
  }
}

inline int64_t CountTiles(const AttentionProblem& problem, int tile_rows) {
  return MaxGroupTiles(problem.tokens, problem.sequences, problem.q_heads / problem.kv_heads,
                       tile_rows);
}

// Blocks per tile.
inline int CountSpans(const AttentionProblem& problem, int tile_rows) {
  constexpr int kFewBlocks = 256;  // more fill a device by themselves
  static_assert(kFewBlocks <= Workspace::kNumCounters);
  if (problem.max_context <= kSpan ||
      CountTiles(problem, tile_rows) * problem.kv_heads > kFewBlocks)
    return 1;
  int visible = problem.max_context;  // by a tile
  const int64_t reach = int64_t{problem.window} + tile_rows;
  if (problem.window > 0 && reach < visible) visible = static_cast<int>(reach);
  const int spans = CeilDiv(problem.max_context, kSpan);
  const int touched = CeilDiv(visible, kSpan) + 1;
  return spans < touched ? spans : touched;
}

inline bool IsWide(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kChunkBytes == 0;
}

// For tiles of `tile_rows` rows, of which a block has one.
template <typename Shape>
Cut MakeCut(const AttentionProblem& problem, int tile_rows) {
  const int act_bytes = problem.act_bf16 ? sizeof(Bf16) : sizeof(float);
  Cut cut{.spans = CountSpans(problem, tile_rows)};
  if (Partials<Shape>::Bytes(problem, cut.spans) > problem.workspace.bytes) cut.spans = 1;
  const bool wide_heads = problem.head_dim % Shape::kPerChunk == 0;
  cut.wide_q = wide_heads && IsWide(problem.q) && problem.q_stride % Shape::kPerChunk == 0;
  cut.wide_kv = wide_heads && IsWide(problem.k) && IsWide(problem.v) &&
                problem.block_stride % Shape::kPerChunk == 0;
  cut.wide_pairs = problem.head_dim % 2 == 0 && problem.out_stride % 2 == 0 &&
                   reinterpret_cast<uintptr_t>(problem.out) % (2 * act_bytes) == 0;
  return cut;
}

// What a launch with MakeCut's spans can use.
template <typename Shape>
size_t WorkspaceBytes(const AttentionProblem& problem, int tile_rows) {
  // Beyond this a device is busy with the sequences that there are.
  constexpr size_t kMostBytes = size_t{32} << 20;
  const int spans = CountSpans(problem, tile_rows);
  if (spans == 1 || problem.tokens == 0) return 0;
  const size_t bytes = Partials<Shape>::Bytes(problem, spans);
  return bytes > kMostBytes ? 0 : bytes;
}

}  // namespace tessera::cuda::attention

#endif  // TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_RESULTS_H_
