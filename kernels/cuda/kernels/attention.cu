// Attention over paged keys and values, one code for prompts and for decoding.
//
// Floor: a sequence's keys and values are read once per KV head and step, 4 head_dim bytes per
// position in bfloat16; 4 head_dim FLOP per visible position and query head. Decoding is bound by
// the bytes (a group of 8 heads: 8 FLOP per byte), a prompt chunk of some hundred tokens by FLOP.
//
// Tiles: the query heads that share a KV head, times the tokens, are the rows; 64 of them, 16 per
// warp, against 32 positions (fp32: 16). So each row sees the same tiles in the same order
// whether it comes alone or in a chunk, and neither the rows beside it nor masked positions change
// its bits. A block reads keys and values once for 64 rows: for decoding that is the floor, for
// prompts 64 / group tokens share a pass, served by L2 beyond the first.
//
// A decoding step pads up to 64 rows: warps without rows only copy. One warp needs about 32 cycles
// per KiB of keys and values, a multiprocessor of an H100 gets one from memory in 80, so the one
// that multiplies keeps up. Three stages of 16 KiB (head_dim 128): 32 KiB in flight per block, two
// blocks per multiprocessor.
//
// When there are few tiles, each span of 256 positions of a tile is a block of its own, and the
// last one merges them in order: 4 (head_dim + 2) bytes per row and span, within L2, 3 % of the
// bytes of the span's keys and values at 8 rows. Otherwise a block goes through the spans and
// merges each in registers by the same formula.
#include "kernels/cuda/kernels/attention.h"
#include "kernels/cuda/kernels/attention_tile.h"
#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {
namespace {

namespace ptx = simt::ptx;
using attention::Arithmetic;
using attention::kInfinity;
using attention::kSpan;
using attention::kStages;
using attention::kThreads;
using attention::kTileRows;
using attention::kWarpRows;
using attention::kWarps;
using attention::Scores;
using attention::Shape;
using attention::Softmax;
using simt::Bf16;
using simt::CeilDiv;

constexpr float kLog2E = 1.4426950408889634F;

template <typename Shape>
struct Shared {
  using T = typename Shape::Element;
  struct Stage {
    T k[Shape::kKeys * Shape::kDim];
    T v[Shape::kKeys * Shape::kDim];
  };
  alignas(128) T q[kTileRows * Shape::kDim];
  alignas(128) Stage stages[kStages];
  typename Arithmetic<T>::template WarpShared<Shape> warps[kWarps];
  uint32_t last;  // of ArrivesLast
};

// How a launch cuts the problem; the same for all of its blocks.
struct Cut {
  int32_t spans = 1;    // blocks per tile: one per span, if more than one
  bool wide_q = false;  // 16-byte boundaries
  bool wide_kv = false;
  bool wide_pairs = false;  // pairs of results lie at boundaries of a pair
};

// The block's rows and the positions that any of them sees.
struct TileRows {
  int sequence = -1;  // -1: none
  int token0 = 0;     // of the sequence
  int first = 0;      // the tile's first row, counted from the sequence's first
  int count = 0;
  int position0 = 0;  // of the sequence's first token
  int begin = 0;      // visible positions
  int end = 0;        // 0: a padded sequence
};

SIMT_DEVICE TileRows FindRows(const AttentionProblem& problem) {
  const int group = problem.q_heads / problem.kv_heads;
  const GroupTile tile = FindGroupTile(problem.cu_seqlens, problem.sequences, group, kTileRows,
                                       static_cast<int>(blockIdx.x));
  TileRows rows;
  rows.sequence = tile.group;
  if (tile.group < 0) return rows;
  rows.token0 = tile.begin;
  rows.first = tile.index * kTileRows;
  const int left = (tile.end - tile.begin) * group - rows.first;
  rows.count = left < kTileRows ? left : kTileRows;
  const int context = problem.context_lens[tile.group];
  if (context == 0) return rows;
  rows.position0 = context - (tile.end - tile.begin);
  rows.end = rows.position0 + (rows.first + rows.count - 1) / group + 1;
  const int hidden = rows.position0 + rows.first / group - problem.window + 1;
  rows.begin = problem.window > 0 && hidden > 0 ? hidden : 0;
  return rows;
}

// Row `row` of the block's tile.
struct QueryRow {
  int64_t token;
  int head;
  int position;
};
SIMT_DEVICE QueryRow FindRow(const AttentionProblem& problem, const TileRows& rows, int row) {
  const int group = problem.q_heads / problem.kv_heads;
  const int token = (rows.first + row) / group;
  const int head = (rows.first + row) % group;
  return {rows.token0 + token, static_cast<int>(blockIdx.y) * group + head, rows.position0 + token};
}

SIMT_DEVICE void Convert(Bf16& to, Bf16 from) { to = from; }
SIMT_DEVICE void Convert(Bf16& to, float from) { to = simt::ToBf16(from); }
SIMT_DEVICE void Convert(float& to, Bf16 from) { to = simt::ToFloat(from); }
SIMT_DEVICE void Convert(float& to, float from) { to = from; }

// Copies the tile's queries, rounded to the type of the keys, with zeros beyond rows and head_dim.
template <typename Shape, typename Act>
SIMT_DEVICE void LoadQueries(const AttentionProblem& problem, const TileRows& rows, bool wide,
                             typename Shape::Element* shared) {
  using T = typename Shape::Element;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * Shape::kChunks; i += kThreads) {
    const int row = i / Shape::kChunks;
    const int d = i % Shape::kChunks * Shape::kPerChunk;
    T* to = &shared[Shape::ElementAt(row, i % Shape::kChunks)];
    if (row >= rows.count || d >= problem.head_dim) {
      simt::Store16(to, uint4{0, 0, 0, 0});
      continue;
    }
    const QueryRow query = FindRow(problem, rows, row);
    const Act* from = static_cast<const Act*>(problem.q) + query.token * problem.q_stride +
                      query.head * problem.head_dim + d;
    if (sizeof(T) == sizeof(Act) && wide) {
      simt::Store16(to, simt::Load16(from));
      continue;
    }
#pragma unroll
    for (int e = 0; e < Shape::kPerChunk; ++e) {
      to[e] = T{};
      if (d + e < problem.head_dim) Convert(to[e], from[e]);
    }
  }
}

// Copies tile `tile` of keys and values: positions from tile * kKeys on. Those that no row sees may
// hold anything, NaN included, and have no page: zeros.
template <typename Shape>
SIMT_DEVICE void LoadTile(const AttentionProblem& problem, const TileRows& rows, int tile,
                          bool wide, typename Shared<Shape>::Stage& stage) {
  using T = typename Shape::Element;
  const int32_t* table = problem.block_tables + rows.sequence * problem.table_stride;
#pragma unroll
  for (int i = 0; i < Shape::kKeys * Shape::kChunks / kThreads; ++i) {
    const int row = (i * kThreads + static_cast<int>(threadIdx.x)) / Shape::kChunks;
    const int chunk = static_cast<int>(threadIdx.x) % Shape::kChunks;
    const int d = chunk * Shape::kPerChunk;
    const int position = tile * Shape::kKeys + row;
    const bool exists = position >= rows.begin && position < rows.end && d < problem.head_dim;
    int64_t from = 0;
    if (exists) {
      const int page = position / problem.block_size;
      const int offset = position % problem.block_size;
      const int64_t block = table[page];
      from = block * problem.block_stride + d +
             (static_cast<int64_t>(blockIdx.y) * problem.block_size + offset) * problem.head_dim;
    }
    const T* k = static_cast<const T*>(problem.k) + from;
    const T* v = static_cast<const T*>(problem.v) + from;
    const int at = Shape::ElementAt(row, chunk);
    if (wide) {
      ptx::CpAsync16(&stage.k[at], k, exists ? kChunkBytes : 0);
      ptx::CpAsync16(&stage.v[at], v, exists ? kChunkBytes : 0);
      continue;
    }
    for (int e = 0; e < Shape::kPerChunk; ++e) {
      const bool real = exists && d + e < problem.head_dim;
      stage.k[at + e] = real ? k[e] : T{};
      stage.v[at + e] = real ? v[e] : T{};
    }
  }
}

// Scales the scores of a tile, in powers of two, and masks what a row does not see.
template <typename Shape>
SIMT_DEVICE void Mask(const AttentionProblem& problem, int tile, const int (&positions)[2],
                      Scores<Shape>& scores) {
  const float scale = problem.scale * kLog2E;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
#pragma unroll
  for (int j = 0; j < Shape::kKeyFragments; ++j) {
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const int key = tile * Shape::kKeys + j * 8 + lane % 4 * 2 + v % 2;
      const int position = positions[v / 2];
      const bool visible =
          key <= position && (problem.window == 0 || key > position - problem.window);
      scores[j][v] = visible ? scores[j][v] * scale : -kInfinity;
    }
  }
}

// The softmax of tiles [begin, end) of keys and values for the block's queries; rows of warps
// without queries stay empty.
template <typename Shape>
SIMT_DEVICE void Attend(const AttentionProblem& problem, const TileRows& rows, const Cut& cut,
                        int begin, int end, Shared<Shape>& shared, Softmax<Shape>& total) {
  using Math = Arithmetic<typename Shape::Element>;
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarpSize;
  const bool works = warp * kWarpRows < rows.count;
  int positions[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * kWarpRows + half * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
    positions[half] = row < rows.count ? FindRow(problem, rows, row).position : -1;
  }
  auto load = [&](int tile, int stage) {
    if (tile < end) LoadTile<Shape>(problem, rows, tile, cut.wide_kv, shared.stages[stage]);
    ptx::CpAsyncCommit();
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) load(begin + s, s);
  __syncthreads();  // the queries are there
  typename Math::template Queries<Shape> queries;
  Math::LoadQueries(shared.q, warp * kWarpRows, queries);
  Softmax<Shape> span;
  int stage = 0;
  for (int tile = begin; tile < end; ++tile) {
    ptx::CpAsyncWait<kStages - 2>();
    // The queries and this tile are there for all, and all are done with the tile before it.
    __syncthreads();
    load(tile + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
    if (works) {
      Scores<Shape> scores = {};
      Math::template Score<Shape>(queries, shared.stages[stage].k, scores);
      Mask<Shape>(problem, tile, positions, scores);
      Update(span, scores);
      Math::template AddValues<Shape>(scores, shared.stages[stage].v, shared.warps[warp], span);
      if ((tile + 1) % Shape::kTilesPerSpan == 0 || tile + 1 == end) {
        SumLanes(span);
        MergeSpan(total, span);
        span = Softmax<Shape>();
      }
    }
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  ptx::CpAsyncWait<0>();
}

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
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarpSize;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * kWarpRows + half * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
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
      StorePair(problem, cut.wide_pairs, query, j * 8 + static_cast<int>(threadIdx.x) % 4 * 2,
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
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
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
  for (int i = static_cast<int>(threadIdx.x); i < rows.count * kColumns; i += kThreads) {
    const QueryRow query = FindRow(problem, rows, i / kColumns);
    const int column = i % kColumns * 4;
    float maximum = -kInfinity;
    float sum = 0.0F;
    float values[4] = {};
    for (int span = 0; span < spans; ++span) {
      float span_maximum;
      float span_sum;
      LoadTwo(span_maximum, span_sum, partials.SoftmaxAt(query, span));
      const attention::MergeWeights weights = attention::Merge(maximum, span_maximum);
      sum = attention::Merged(weights, sum, span_sum);
      float added[4];
      LoadFour(added, partials.ValuesAt(query, span) + column);
#pragma unroll
      for (int c = 0; c < 4; ++c) values[c] = attention::Merged(weights, values[c], added[c]);
    }
    StorePair(problem, cut.wide_pairs, query, column, values[0] / sum, values[1] / sum);
    StorePair(problem, cut.wide_pairs, query, column + 2, values[2] / sum, values[3] / sum);
  }
}

SIMT_DEVICE void StoreZeros(const AttentionProblem& problem, const TileRows& rows) {
  const int pairs = CeilDiv(problem.head_dim, 2);
  for (int i = static_cast<int>(threadIdx.x); i < rows.count * pairs; i += kThreads) {
    StorePair(problem, false, FindRow(problem, rows, i / pairs), i % pairs * 2, 0.0F, 0.0F);
  }
}

template <typename Shape>
SIMT_KERNEL(kThreads, 2)
AttentionKernel(const SIMT_GRID_CONSTANT AttentionProblem problem, Cut cut) {
  auto& shared = simt::SharedMemory<Shared<Shape>>();
  ptx::GridDependencyWait();
  const TileRows rows = FindRows(problem);
  if (rows.sequence < 0) return;
  const int block = static_cast<int>(blockIdx.z);
  if (rows.end == 0) {
    if (block == 0) StoreZeros(problem, rows);
    return;
  }
  const int first_span = rows.begin / kSpan;
  const int spans = CeilDiv(rows.end, kSpan) - first_span;
  int begin = rows.begin / Shape::kKeys;
  int end = CeilDiv(rows.end, Shape::kKeys);
  if (cut.spans > 1) {
    if (block >= spans) return;
    const int span_begin = (first_span + block) * Shape::kTilesPerSpan;
    const int span_end = span_begin + Shape::kTilesPerSpan;
    begin = begin > span_begin ? begin : span_begin;
    end = end < span_end ? end : span_end;
  }
  if (problem.act_bf16) {
    LoadQueries<Shape, Bf16>(problem, rows, cut.wide_q, shared.q);
  } else {
    LoadQueries<Shape, float>(problem, rows, cut.wide_q, shared.q);
  }
  Softmax<Shape> total;
  Attend<Shape>(problem, rows, cut, begin, end, shared, total);
  ptx::GridDependencyLaunch();
  if (cut.spans == 1 || spans == 1) {
    StoreResults(problem, rows, cut, total);
    return;
  }
  const Partials<Shape> partials(problem, cut.spans);
  StorePartials(problem, rows, block, partials, total);
  uint32_t* counter = &problem.workspace.counters[blockIdx.x * gridDim.y + blockIdx.y];
  if (!ArrivesLast(counter, spans, &shared.last)) return;
  MergePartials(problem, rows, cut, spans, partials);
}

int64_t CountTiles(const AttentionProblem& problem) {
  return MaxGroupTiles(problem.tokens, problem.sequences, problem.q_heads / problem.kv_heads,
                       kTileRows);
}

// Blocks per tile.
int CountSpans(const AttentionProblem& problem) {
  constexpr int kFewBlocks = 256;  // more fill a device by themselves
  static_assert(kFewBlocks <= Workspace::kNumCounters);
  if (problem.max_context <= kSpan || CountTiles(problem) * problem.kv_heads > kFewBlocks) return 1;
  int visible = problem.max_context;  // by a tile
  const int64_t reach = int64_t{problem.window} + kTileRows;
  if (problem.window > 0 && reach < visible) visible = static_cast<int>(reach);
  const int spans = CeilDiv(problem.max_context, kSpan);
  const int touched = CeilDiv(visible, kSpan) + 1;
  return spans < touched ? spans : touched;
}

bool IsWide(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kChunkBytes == 0; }

template <typename Shape>
cudaError_t Launch(cudaStream_t stream, const AttentionProblem& problem) {
  const int act_bytes = problem.act_bf16 ? sizeof(Bf16) : sizeof(float);
  Cut cut{.spans = CountSpans(problem)};
  if (Partials<Shape>::Bytes(problem, cut.spans) > problem.workspace.bytes) cut.spans = 1;
  const bool wide_heads = problem.head_dim % Shape::kPerChunk == 0;
  cut.wide_q = wide_heads && IsWide(problem.q) && problem.q_stride % Shape::kPerChunk == 0;
  cut.wide_kv = wide_heads && IsWide(problem.k) && IsWide(problem.v) &&
                problem.block_stride % Shape::kPerChunk == 0;
  cut.wide_pairs = problem.head_dim % 2 == 0 && problem.out_stride % 2 == 0 &&
                   reinterpret_cast<uintptr_t>(problem.out) % (2 * act_bytes) == 0;
  const simt::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(CountTiles(problem)),
                   static_cast<unsigned>(problem.kv_heads), static_cast<unsigned>(cut.spans)),
      .block = dim3(kThreads),
      .shared_bytes = sizeof(Shared<Shape>),
      .stream = stream,
      .dependent = true};
  return SIMT_LAUNCH(shape, AttentionKernel<Shape>, problem, cut);
}

// Calls body(a Shape) with the one that fits.
template <typename T, typename Body>
auto WithShapeOf(int head_dim, const Body& body) {
  if (head_dim <= 32) return body(Shape<T, 32>());
  if (head_dim <= 64) return body(Shape<T, 64>());
  return body(Shape<T, kMaxHeadDim>());
}
template <typename Body>
auto WithShape(const AttentionProblem& problem, const Body& body) {
  return problem.kv_bf16 ? WithShapeOf<Bf16>(problem.head_dim, body)
                         : WithShapeOf<float>(problem.head_dim, body);
}

}  // namespace

size_t AttentionWorkspaceBytes(const AttentionProblem& problem) {
  // Beyond this a device is busy with the sequences that there are.
  constexpr size_t kMostBytes = size_t{32} << 20;
  const int spans = CountSpans(problem);
  if (spans == 1 || problem.tokens == 0) return 0;
  const size_t bytes = WithShape(
      problem, [&](auto shape) { return Partials<decltype(shape)>::Bytes(problem, spans); });
  return bytes > kMostBytes ? 0 : bytes;
}

cudaError_t LaunchPagedAttention(cudaStream_t stream, const AttentionProblem& problem) {
  if (problem.head_dim > kMaxHeadDim) return cudaErrorInvalidValue;
  if (problem.tokens == 0 || problem.sequences == 0) return cudaSuccess;
  return WithShape(problem, [&](auto shape) { return Launch<decltype(shape)>(stream, problem); });
}

}  // namespace tessera::cuda
