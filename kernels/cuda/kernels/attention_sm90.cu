// Attention over paged keys and values by TMA and wgmma (sm_90a), one code for prompts and for
// decoding.
//
// Floor: that of attention.cu. Per position and KV head 4 head_dim bytes, read once per 64 or 128
// rows; per position and row 4 head_dim FLOP. H100: 3.35 TB/s and 990 TFLOP/s meet at about 300
// rows, so decoding (1 to 16 rows per KV head) is bound by bytes, and a prompt chunk whose tiles
// share their keys and values in L2 by FLOP.
//
// Tiles: the rows are query heads of a KV head times tokens, 64 per warpgroup, whatever the call
// is; wgmma keeps each row's sums to itself, so padding costs arithmetic alone. Keys come in tiles
// of 64 positions, and spans of 256 are merged in order: the same for all callers.
//
// Decoding: one warpgroup multiplies, one loads, two such blocks per multiprocessor. A tile of
// head_dim 128 is 32 KiB, 512 cycles of tensor cores and some 200 of softmax, and takes 2,300
// cycles to come (3.35 TB/s, 132 multiprocessors, 1.75 GHz): 31 % of the time for one block, so
// memory is what is waited for. Three stages, of which two are under way while the third is
// multiplied: 64 KiB per block, 128 KiB per multiprocessor; 3.35 TB/s in 1 us are 25 KB.
//
// Prompts: two warpgroups multiply 128 rows by the same stage: while one is busy with its softmax
// the other one has the tensor cores. Within a warpgroup the scores of the next tile are multiplied
// together with the values of this one, so its softmax, too, runs beside a product. Per tile and
// warpgroup: 512 cycles of products; 256 of exponentials (4,096 at 16 per cycle), beside them; 48
// KiB of operands from shared memory and 16 KiB brought there: all of its 128 bytes per cycle.
// Queries in registers would take a quarter of that, but the sums of span and total hold 128.
//
// One warpgroup loads: whole pages by TMA, each warp its share of the boxes, with the block ids of
// 32 pages in the lanes of a warp. Tiles in which a page ends, or where positions are hidden or not
// written yet, are copied by all its threads with zeros in the gaps: what lies there may be NaN.
#include "kernels/cuda/kernels/attention_results.h"
#include "kernels/cuda/kernels/attention_rows.h"
#include "kernels/cuda/kernels/attention_sm90.h"
#include "kernels/cuda/kernels/attention_sm90_tile.h"
#include "kernels/cuda/kernels/attention_tile.h"
#include "kernels/cuda/kernels/sm90.h"
#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {
namespace {

namespace ptx = simt::ptx;
using namespace attention;  // NOLINT: its other parts
using sm90::kGroupThreads;
using sm90::kGroupWarps;
using sm90::Position;

struct Call {
  AttentionProblem problem;
  AttentionSm90Maps maps;
  Cut cut;
  bool loads_pages = false;
  int32_t page_rows = 0;  // of a box
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

SIMT_DEVICE int Group() { return static_cast<int>(threadIdx.x) / kGroupThreads; }
// Of a warpgroup that multiplies.
template <typename Tile>
SIMT_DEVICE int ConsumerGroup() {
  return Tile::kConsumers == 1 ? 0 : Group();
}
SIMT_DEVICE int Lane() { return static_cast<int>(threadIdx.x) % simt::kWarpSize; }

// The warpgroup that brings keys and values. It may end before its last loads land: the consumers
// wait for each of them, so the block does not.
template <typename Tile>
class Producer {
 public:
  SIMT_DEVICE Producer(const Call& call, typename Tile::Shared& shared)
      : call_(call),
        rows_(shared.kept[Tile::kConsumers].rows),
        tiles_(shared.kept[Tile::kConsumers].tiles),
        shared_(shared) {}

  // A tile that is copied is published kLag tiles later, when its copies have landed.
  SIMT_DEVICE void Run() {
    Position<Tile::kStages> at;
    for (int tile = tiles_.begin; tile < tiles_.end; ++tile, at.Next()) {
      ptx::MBarrierWait(&shared_.empty[at.stage], at.parity ^ 1U);
      if (IsCopied(tile)) {
        LoadTile<Tile>(call_.problem, rows_, tile, call_.cut.wide_kv, shared_.stages[at.stage]);
      } else {
        LoadPages(tile, at.stage);
      }
      ptx::CpAsyncCommit();
      if (tile - tiles_.begin >= kLag) {
        ptx::CpAsyncWait<kLag>();
        Publish(tile - kLag);
      }
    }
    ptx::CpAsyncWait<0>();
    const int rest = tiles_.end - kLag;
    for (int tile = rest > tiles_.begin ? rest : tiles_.begin; tile < tiles_.end; ++tile) {
      Publish(tile);
    }
  }

 private:
  static constexpr int kLag = Tile::kStages - 2 < 3 ? Tile::kStages - 2 : 3;
  // A consumer gives a stage back when it has started the next one.
  static_assert(kLag >= 1 && kLag + 2 <= Tile::kStages);

  SIMT_DEVICE bool IsCopied(int tile) const {
    const int first = tile * Tile::kKeys;
    return !call_.loads_pages || first < rows_.begin || first + Tile::kKeys > rows_.end;
  }

  // The block of a page; pages are asked for in ascending order, by all lanes of the warp together.
  SIMT_DEVICE int BlockOf(int page) {
    if (page >= held_end_) {
      held_end_ = page + simt::kWarpSize;
      const AttentionProblem& problem = call_.problem;
      const int32_t* table = problem.block_tables + rows_.sequence * problem.table_stride;
      const int own = page + Lane();
      held_ = own < CeilDiv(rows_.end, problem.block_size) ? table[own] : 0;
    }
    return __shfl_sync(simt::kFullMask, held_, page - (held_end_ - simt::kWarpSize));
  }

  // Of a tile's boxes, numbered page by page, each warp loads every fourth.
  SIMT_DEVICE void LoadPages(int tile, int stage) {
    constexpr int kPageBoxes = 2 * Tile::kPanels;
    const int boxes = Tile::kKeys / call_.page_rows * kPageBoxes;
    const int box_bytes = call_.page_rows * kSm90HeadColumns * static_cast<int>(sizeof(Bf16));
    const int warp = GroupThread() / simt::kWarpSize;
    const int own = CeilDiv(boxes - warp, kGroupWarps);
    uint64_t* full = &shared_.full[stage];
    if (Lane() == 0) {
      if (own > 0) {
        ptx::MBarrierArriveExpectTx(full, static_cast<uint32_t>(own * box_bytes));
      } else {
        ptx::MBarrierArrive(full);
      }
    }
#pragma unroll 1
    for (int box = warp; box < boxes; box += kGroupWarps) {
      const int row = box / kPageBoxes * call_.page_rows;
      const int position = tile * Tile::kKeys + row;
      const int block = BlockOf(position / call_.problem.block_size);
      if (Lane() != 0) continue;
      const bool keys = box % 2 == 0;
      const int panel = box % kPageBoxes / 2;
      Bf16* to = keys ? shared_.stages[stage].k : shared_.stages[stage].v;
      ptx::TmaLoad3D(to + panel * Tile::kPanelElements + row * kSm90HeadColumns,
                     keys ? &call_.maps.k : &call_.maps.v, full, panel * kSm90HeadColumns,
                     static_cast<int>(blockIdx.y) * call_.problem.block_size +
                         position % call_.problem.block_size,
                     block);
    }
  }

  // Of a tile whose copies, if it was copied, have landed; one tile after the other.
  SIMT_DEVICE void Publish(int tile) {
    if (IsCopied(tile)) {
      ptx::FenceProxyAsync();  // wgmma reads what this thread has copied
      __syncwarp();
      if (Lane() == 0) ptx::MBarrierArrive(&shared_.full[behind_.stage]);
    }
    behind_.Next();
  }

  const Call& call_;
  const TileRows& rows_;
  const KeyTiles& tiles_;
  typename Tile::Shared& shared_;
  Position<Tile::kStages> behind_;
  int held_end_ = 0;  // the lanes hold the blocks of the 32 pages before it
  int32_t held_ = 0;
};

template <int kFragments>
SIMT_DEVICE auto& Flat(float (&fragments)[kFragments][4]) {
  return reinterpret_cast<float(&)[kFragments * 4]>(fragments);
}

// A warpgroup that multiplies: 64 query rows, of which there is one at least.
template <typename Tile>
class Consumer {
 public:
  SIMT_DEVICE Consumer(const Call& call, typename Tile::Shared& shared)
      : call_(call), shared_(shared) {}

  // The softmax of the tiles. While the values of one are added, the scores of the next one are
  // multiplied and weighed.
  SIMT_DEVICE void Run(Softmax<Tile>& total) {
    const KeyTiles& tiles = shared_.kept[ConsumerGroup<Tile>()].tiles;
    ptx::MBarrierWait(&shared_.full[at_.stage], at_.parity);
    ptx::WgmmaFenceOperand(Flat(scores_));
    ptx::WgmmaFence();
    MultiplyKeys(at_.stage);
    ptx::WgmmaWait<0>(Flat(scores_));
    Weigh(tiles.begin, span_);
    Pack();
    int tile = tiles.begin;
    for (; tile + 1 < tiles.end; ++tile) {
      const int stage = at_.stage;
      at_.Next();
      ptx::MBarrierWait(&shared_.full[at_.stage], at_.parity);
      BeginValues();
      MultiplyKeys(at_.stage);
      MultiplyValues(stage);
      ptx::WgmmaWait<1>(Flat(scores_));
      const bool ends = (tile + 1) % Tile::kTilesPerSpan == 0;
      Running next;
      if (!ends) next = span_;
      if constexpr (!Tile::kOverlaps) EndValues(stage);
      Weigh(tile + 1, next);
      if constexpr (Tile::kOverlaps) EndValues(stage);
      if (ends) {
        EndSpan(total);
      } else {
        Correct(span_.values, corrections_);
      }
      static_cast<Running&>(span_) = next;
      Pack();
    }
    BeginValues();
    MultiplyValues(at_.stage);
    EndValues(at_.stage);
    EndSpan(total);
  }

 private:
  static constexpr int kSteps = Tile::kKeys / 16;

  // Scores of the keys of a stage, in flight.
  SIMT_DEVICE void MultiplyKeys(int stage) {
#pragma unroll
    for (int k = 0; k < Tile::kDim; k += 16) {
      const int at = k / kSm90HeadColumns * Tile::kPanelElements + k % kSm90HeadColumns;
      ptx::Wgmma(Flat(scores_), ptx::WgmmaDescriptor(&shared_.q[ConsumerGroup<Tile>()][at]),
                 ptx::WgmmaDescriptor(&shared_.stages[stage].k[at]), k > 0);
    }
    ptx::WgmmaCommit();
  }

  SIMT_DEVICE void BeginValues() {
    ptx::WgmmaFenceOperand(Flat(scores_));
    ptx::WgmmaFenceOperand(Flat(span_.values));
    ptx::WgmmaFenceOperand(probabilities_);
    ptx::WgmmaFence();
  }
  SIMT_DEVICE void MultiplyValues(int stage) {
    constexpr uint32_t kPanelBytes = Tile::kPanelElements * sizeof(Bf16);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const Bf16* values = &shared_.stages[stage].v[i * 16 * kSm90HeadColumns];
      ptx::WgmmaPanels(Flat(span_.values), probabilities_[i],
                       ptx::WgmmaPanelsDescriptor(values, kPanelBytes));
    }
    ptx::WgmmaCommit();
  }
  // And gives the stage back, once per warp.
  SIMT_DEVICE void EndValues(int stage) {
    ptx::WgmmaWait<0>(Flat(span_.values));
    ptx::WgmmaFenceOperand(probabilities_);
    if (Lane() == 0) ptx::MBarrierArrive(&shared_.empty[stage]);
  }

  // Turns the scores of a tile into probabilities.
  SIMT_DEVICE void Weigh(int tile, Running& running) {
    const SeenByAll& seen = shared_.kept[ConsumerGroup<Tile>()].seen;
    if (tile * Tile::kKeys >= seen.begin && (tile + 1) * Tile::kKeys <= seen.end) {
      Scale<Tile>(call_.problem, scores_);
    } else {
      int positions[2];
      FindPositions(call_.problem, shared_.kept[ConsumerGroup<Tile>()].rows, positions);
      Mask<Tile>(call_.problem, tile, positions, scores_);
    }
    attention::Weigh(running, scores_, corrections_);
  }

  SIMT_DEVICE void Pack() {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) PackProbabilities(scores_, i * 2, probabilities_[i]);
  }

  SIMT_DEVICE void EndSpan(Softmax<Tile>& total) {
    SumLanes(span_);
    MergeSpan(total, span_);
#pragma unroll
    for (auto& values : span_.values) {
#pragma unroll
      for (float& value : values) value = 0.0F;
    }
  }

  const Call& call_;
  typename Tile::Shared& shared_;
  Position<Tile::kStages> at_;  // of the keys that were multiplied last
  Softmax<Tile> span_;
  Scores<Tile> scores_;                // then probabilities
  float corrections_[2];               // of what was summed before them
  uint32_t probabilities_[kSteps][4];  // rounded
};

template <typename Tile>
SIMT_DEVICE void Consume(const Call& call, typename Tile::Shared& shared) {
  const TileRows& rows = shared.kept[ConsumerGroup<Tile>()].rows;
  const KeyTiles& tiles = shared.kept[ConsumerGroup<Tile>()].tiles;
  const AttentionProblem& problem = call.problem;
  const int barrier = 1 + ConsumerGroup<Tile>();
  if (problem.act_bf16) {
    LoadQueries<Tile, Bf16>(problem, rows, call.cut.wide_q, shared.q[ConsumerGroup<Tile>()]);
  } else {
    LoadQueries<Tile, float>(problem, rows, call.cut.wide_q, shared.q[ConsumerGroup<Tile>()]);
  }
  ptx::FenceProxyAsync();  // wgmma reads them
  ptx::NamedBarrierSync(barrier, kGroupThreads);
  Softmax<Tile> total;
  Consumer<Tile>(call, shared).Run(total);
  ptx::GridDependencyLaunch();
  if (call.cut.spans == 1 || tiles.spans == 1) {
    StoreResults(problem, rows, call.cut, total);
    return;
  }
  const Partials<Tile> partials(problem, call.cut.spans);
  StorePartials(problem, rows, static_cast<int>(blockIdx.z), partials, total);
  uint32_t* counter =
      &problem.workspace.counters[(blockIdx.x * gridDim.y + blockIdx.y) * Tile::kConsumers +
                                  ConsumerGroup<Tile>()];
  if (!WarpgroupArrivesLast(counter, tiles.spans, &shared.last[ConsumerGroup<Tile>()], barrier))
    return;
  MergePartials(problem, rows, call.cut, tiles.spans, partials);
}

#endif

template <typename Tile>
SIMT_KERNEL(Tile::kBlockThreads, Tile::kBlocks)
AttentionSm90Kernel(const SIMT_GRID_CONSTANT Call call) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = simt::SharedMemory<typename Tile::Shared>();
  ptx::GridDependencyWait();
  const TileRows rows = FindRows(call.problem, Tile::kRows);
  if (rows.sequence < 0) return;
  if (rows.end == 0) {
    if (blockIdx.z == 0) StoreZeros(call.problem, PartOf(rows, Group() * kTileRows));
    return;
  }
  const KeyTiles tiles = FindKeyTiles<Tile>(rows, call.cut);
  if (tiles.begin == tiles.end) return;
  if (threadIdx.x == 0) {
    const auto consumers = static_cast<uint32_t>(CeilDiv(rows.count, kTileRows));
    for (int s = 0; s < Tile::kStages; ++s) {
      ptx::MBarrierInit(&shared.full[s], kGroupWarps);
      ptx::MBarrierInit(&shared.empty[s], consumers * kGroupWarps);
    }
    ptx::FenceBarrierInit();
  }
  const bool consumes = Group() < Tile::kConsumers;
  Kept& own = shared.kept[Group()];
  if (GroupThread() == 0) {
    const TileRows found = consumes ? PartOf(rows, Group() * kTileRows) : rows;
    own.Keep(found, FindSeenByAll(call.problem, found), tiles);
  }
  __syncthreads();
  if (!consumes) {
    ptx::GiveBackRegisters<Tile::kProducerRegisters>();
    Producer<Tile>(call, shared).Run();
    return;
  }
  if (own.rows.count == 0) return;
  ptx::TakeRegisters<Tile::kConsumerRegisters>();
  Consume<Tile>(call, shared);
#endif
}

template <typename Tile>
cudaError_t Launch(cudaStream_t stream, const AttentionProblem& problem,
                   const AttentionSm90Maps& maps) {
  const Call call{.problem = problem,
                  .maps = maps,
                  .cut = MakeCut<Tile>(problem, Tile::kRows),
                  .loads_pages = Sm90LoadsPages(problem),
                  .page_rows = Sm90PageRows(problem)};
  const simt::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(CountTiles(problem, Tile::kRows)),
                   static_cast<unsigned>(problem.kv_heads), static_cast<unsigned>(call.cut.spans)),
      .block = dim3(Tile::kBlockThreads),
      .shared_bytes = sizeof(typename Tile::Shared),
      .stream = stream,
      .dependent = true};
  return SIMT_LAUNCH(shape, AttentionSm90Kernel<Tile>, call);
}

// Calls body(an Sm90Tile) with the one that fits: 128 rows where sequences have more than 64.
template <int kDim, typename Body>
auto WithRows(const AttentionProblem& problem, const Body& body) {
  const int64_t rows = int64_t{problem.tokens} * (problem.q_heads / problem.kv_heads);
  if (rows <= int64_t{problem.sequences} * kTileRows) return body(Sm90Tile<kDim, 1>());
  return body(Sm90Tile<kDim, 2>());
}
template <typename Body>
auto WithTile(const AttentionProblem& problem, const Body& body) {
  return problem.head_dim <= kSm90HeadColumns ? WithRows<kSm90HeadColumns>(problem, body)
                                              : WithRows<kMaxHeadDim>(problem, body);
}

}  // namespace

size_t AttentionSm90WorkspaceBytes(const AttentionProblem& problem) {
  return WithTile(problem, [&](auto tile) {
    using Tile = decltype(tile);
    return WorkspaceBytes<Tile>(problem, Tile::kRows);
  });
}

cudaError_t LaunchAttentionSm90(cudaStream_t stream, const AttentionProblem& problem,
                                const AttentionSm90Maps& maps) {
  if (problem.head_dim > kMaxHeadDim || !problem.kv_bf16) return cudaErrorInvalidValue;
  if (problem.tokens == 0 || problem.sequences == 0) return cudaSuccess;
  return WithTile(problem,
                  [&](auto tile) { return Launch<decltype(tile)>(stream, problem, maps); });
}

}  // namespace tessera::cuda
