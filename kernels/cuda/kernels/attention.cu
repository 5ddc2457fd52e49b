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
#include "kernels/cuda/kernels/attention_results.h"
#include "kernels/cuda/kernels/attention_rows.h"
#include "kernels/cuda/kernels/attention_tile.h"
#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {
namespace {

using namespace attention;  // NOLINT: its other parts

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

// The softmax of the tiles of keys and values for the block's queries; rows of warps
// without queries stay empty.
template <typename Shape>
SIMT_DEVICE void Attend(const AttentionProblem& problem, const TileRows& rows, const Cut& cut,
                        const KeyTiles& tiles, Shared<Shape>& shared, Softmax<Shape>& total) {
  using Math = Arithmetic<typename Shape::Element>;
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarpSize;
  const bool works = warp * kWarpRows < rows.count;
  int positions[2];
  FindPositions(problem, rows, positions);
  auto load = [&](int tile, int stage) {
    if (tile < tiles.end) LoadTile<Shape>(problem, rows, tile, cut.wide_kv, shared.stages[stage]);
    ptx::CpAsyncCommit();
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) load(tiles.begin + s, s);
  __syncthreads();  // the queries are there
  typename Math::template Queries<Shape> queries;
  Math::LoadQueries(shared.q, warp * kWarpRows, queries);
  Softmax<Shape> span;
  int stage = 0;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
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
      if ((tile + 1) % Shape::kTilesPerSpan == 0 || tile + 1 == tiles.end) {
        SumLanes(span);
        MergeSpan(total, span);
        span = Softmax<Shape>();
      }
    }
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  ptx::CpAsyncWait<0>();
}

template <typename Shape>
SIMT_KERNEL(kThreads, 2)
AttentionKernel(const SIMT_GRID_CONSTANT AttentionProblem problem, Cut cut) {
  auto& shared = simt::SharedMemory<Shared<Shape>>();
  ptx::GridDependencyWait();
  const TileRows rows = FindRows(problem, kTileRows);
  if (rows.sequence < 0) return;
  if (rows.end == 0) {
    if (blockIdx.z == 0) StoreZeros(problem, rows);
    return;
  }
  const KeyTiles tiles = FindKeyTiles<Shape>(rows, cut);
  if (tiles.begin == tiles.end) return;
  if (problem.act_bf16) {
    LoadQueries<Shape, Bf16>(problem, rows, cut.wide_q, shared.q);
  } else {
    LoadQueries<Shape, float>(problem, rows, cut.wide_q, shared.q);
  }
  Softmax<Shape> total;
  Attend<Shape>(problem, rows, cut, tiles, shared, total);
  ptx::GridDependencyLaunch();
  if (cut.spans == 1 || tiles.spans == 1) {
    StoreResults(problem, rows, cut, total);
    return;
  }
  const Partials<Shape> partials(problem, cut.spans);
  StorePartials(problem, rows, static_cast<int>(blockIdx.z), partials, total);
  uint32_t* counter = &problem.workspace.counters[blockIdx.x * gridDim.y + blockIdx.y];
  if (!ArrivesLast(counter, tiles.spans, &shared.last)) return;
  MergePartials(problem, rows, cut, tiles.spans, partials);
}

template <typename Shape>
cudaError_t Launch(cudaStream_t stream, const AttentionProblem& problem) {
  const Cut cut = MakeCut<Shape>(problem, kTileRows);
  const simt::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(CountTiles(problem, kTileRows)),
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
  return WithShape(problem,
                   [&](auto shape) { return WorkspaceBytes<decltype(shape)>(problem, kTileRows); });
}

cudaError_t LaunchPagedAttention(cudaStream_t stream, const AttentionProblem& problem) {
  if (problem.head_dim > kMaxHeadDim) return cudaErrorInvalidValue;
  if (problem.tokens == 0 || problem.sequences == 0) return cudaSuccess;
  return WithShape(problem, [&](auto shape) { return Launch<decltype(shape)>(stream, problem); });
}

}  // namespace tessera::cuda
