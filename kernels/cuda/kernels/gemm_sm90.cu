// Matrix products by TMA and wgmma (sm_90a).
//
// Floor: a product moves n k weights once, rows k of x and rows n of out, and takes 2 rows n k
// FLOP. H100: 3.35 TB/s and 990 TFLOP/s meet at about 300 rows; below, it is bound by 2 n k bytes.
//
// What the kernel moves: the weights once per row tile and x once per column tile, all but the
// first time from L2 (tiles go to the blocks in bands of 16 row tiles), and with split K 8 rows n
// segments bytes of sums, written and read within L2.
//
// Pairs: a step of a 128 x 128 tile is 2.1 MFLOP, 0.28 us of a multiprocessor of the H100, for
// which it loads 32 KiB: 15 TB/s for all 132, more than L2 gives. So prompts go to clusters of two
// blocks, one row tile below the other, that take turns at loading the weights for both: 24 KiB per
// step and block. More blocks save less (20 KiB for four) and wait for each other more.
//
// Tiles: wgmma multiplies 64 rows of one operand by 8 to 128 rows of the other, so 128 columns of
// weights and 128 rows of x are two warpgroups of 64 x 128 each: 32 FLOP per byte of shared memory
// filled. For fewer rows the operands are swapped: the weights are the 64 rows, and the tokens the
// 8 to 64. A step of K is 64 elements: one 128-byte line per row. A stage weighs 32 KiB (six of
// them), or 17 to 24 KiB for few rows, of which 16 are weights (twelve to eight): at least 128 KiB
// of weights are in flight per multiprocessor; 3.35 TB/s in 1 us are 25 KB.
//
// One warpgroup loads, two multiply. Two groups of products are in flight in each, so a stage is
// given back when the next one has been started. Each segment of K is summed from zero and added
// to what the ones before it gave, here or, with split K, by the block that finishes last.
#include "kernels/cuda/kernels/gemm_sm90.h"
#include "kernels/cuda/kernels/gemm_sm90_tile.h"
#include "kernels/cuda/kernels/segments.h"
#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {
namespace {

using namespace sm90;  // NOLINT: its other half

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Copies rows of x to shared memory as TMA would: each thread one 16-byte chunk of every
// kLoadRows-th row. A stage is published kLag steps later, when its copies have landed.
template <typename Tile>
class RowCopies {
 public:
  SIMT_DEVICE void Begin(const GemmProblem& problem, const Work& work) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int row = work.row0 + i * kLoadRows + LoadRow();
      int from = -1;
      if (row < work.row_end) from = problem.row_index == nullptr ? row : problem.row_index[row];
      rows_[i] = from < 0 ? nullptr : static_cast<const Bf16*>(problem.x) + from * problem.x_stride;
    }
  }

  SIMT_DEVICE void Copy(const Call& call, typename Tile::Shared& shared, int step, int stage) {
    const int chunk = static_cast<int>(threadIdx.x) % kStepChunks;
    const int k = (step * kStepChunks + chunk) * kChunkElements;
    const int left = call.problem.k - k;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int row = i * kLoadRows + LoadRow();
      if (row >= Tile::kRows) break;
      Bf16* to = shared.X(stage) + SwizzledChunk<kStepChunks>(row, chunk) * kChunkElements;
      const int count = rows_[i] == nullptr || left < 0 ? 0
                        : left < kChunkElements         ? left
                                                        : kChunkElements;
      if (call.cut.wide_x) {
        ptx::CpAsync16(to, count > 0 ? rows_[i] + k : call.problem.x,
                       static_cast<uint32_t>(count) * sizeof(Bf16));
      } else {
#pragma unroll
        for (int e = 0; e < kChunkElements; ++e) to[e] = e < count ? rows_[i][k + e] : Bf16{0};
      }
    }
    ptx::CpAsyncCommit();
    if (copied_ < kLag) {
      ++copied_;
      return;
    }
    ptx::CpAsyncWait<kLag>();
    Publish(shared);
  }

  SIMT_DEVICE void End(typename Tile::Shared& shared) {
    ptx::CpAsyncWait<0>();
    for (; copied_ > 0; --copied_) Publish(shared);
  }

 private:
  static constexpr int kLoadRows = kGroupThreads / kStepChunks;
  static constexpr int kLoads = CeilDiv(Tile::kRows, kLoadRows);
  static constexpr int kLag = 3;
  // A consumer gives a stage back when it has started the next one.
  static_assert(kLag + 2 <= Tile::kStages);

  SIMT_DEVICE static int LoadRow() {
    return static_cast<int>(threadIdx.x) % kGroupThreads / kStepChunks;
  }
  SIMT_DEVICE void Publish(typename Tile::Shared& shared) {
    ptx::FenceProxyAsync();  // wgmma reads what this thread has copied
    __syncwarp();
    if (threadIdx.x % simt::kWarpSize == 0) ptx::MBarrierArrive(&shared.full[behind_.stage]);
    behind_.Next();
  }

  const Bf16* rows_[kLoads] = {};  // null: not there
  int copied_ = 0;                 // stages that are not published
  Position<Tile::kStages> behind_;
};

template <typename Tile>
SIMT_DEVICE void Load(const Call& call, typename Tile::Shared& shared, const Work& work, int step,
                      int stage) {
  const bool grouped = call.problem.offsets != nullptr;
  const simt::TensorMap* weight = grouped ? call.maps.weights + work.group : &call.maps.weight;
  uint64_t* full = &shared.full[stage];
  ptx::MBarrierArriveExpectTx(full, Tile::kLoadedBytes);
  if constexpr (Tile::kBlocks == 1) {
    ptx::TmaLoad2D(shared.Weight(stage), weight, full, step * kStepK, work.column0);
  } else if (stage % Tile::kBlocks == static_cast<int>(ptx::ClusterRank())) {
    ptx::TmaMulticast2D(shared.Weight(stage), weight, full, step * kStepK, work.column0,
                        Tile::kAllBlocks);
  }
  if constexpr (!Tile::kCopied) {
    ptx::TmaLoad2D(shared.X(stage), &call.maps.x, full, step * kStepK, work.row0);
  }
}

// The last warpgroup; without copies only its first warp. It may end before its last loads land:
// the consumers wait for each of them, so the block does not. In a cluster a stage is loaded when
// the consumers of all blocks have given it back, by the block whose turn it is.
template <typename Tile>
SIMT_DEVICE void Produce(const Call& call, typename Tile::Shared& shared) {
  const bool leads = threadIdx.x == kConsumers * kGroupThreads;
  Position<Tile::kStages> at;
  RowCopies<Tile> copies;
  const int count = WorkCount(call.cut);
  for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x)) {
    const Work work = FindWork<Tile>(call, i);
    if (!work.exists) continue;
    if (leads && call.problem.offsets != nullptr) {
      ptx::FenceTensorMap(call.maps.weights + work.group);
    }
    if constexpr (Tile::kCopied) copies.Begin(call.problem, work);
    for (int step = work.first_step; step < work.end_step; ++step, at.Next()) {
      if (leads || Tile::kCopied) ptx::MBarrierWait(&shared.empty[at.stage], at.parity ^ 1U);
      if (leads) Load<Tile>(call, shared, work, step, at.stage);
      if constexpr (Tile::kCopied) copies.Copy(call, shared, step, at.stage);
    }
  }
  if constexpr (Tile::kCopied) copies.End(shared);
}

// sums = the product of the segment [first_step, end_step).
template <typename Tile>
SIMT_DEVICE void SumSegment(typename Tile::Shared& shared, int first_step, int end_step,
                            Position<Tile::kStages>& at, float (&sums)[Tile::kValues]) {
  const auto release = [&](int stage) {  // once per warp and block
    const uint32_t lane = threadIdx.x % simt::kWarpSize;
    if constexpr (Tile::kBlocks == 1) {
      if (lane == 0) ptx::MBarrierArrive(&shared.empty[stage]);
    } else if (lane < Tile::kBlocks) {
      ptx::MBarrierArriveRemote(&shared.empty[stage], lane);
    }
  };
  int before = -1;  // stage whose products may be in flight
  ptx::WgmmaFenceOperand(sums);
  for (int step = first_step; step < end_step; ++step, at.Next()) {
    ptx::MBarrierWait(&shared.full[at.stage], at.parity);
    ptx::WgmmaFence();
#pragma unroll
    for (int k = 0; k < kStepK; k += 16) {
      ptx::Wgmma(sums,
                 ptx::WgmmaDescriptor(&shared.a[at.stage][Consumer() * kUnitRows * kStepK + k]),
                 ptx::WgmmaDescriptor(&shared.b[at.stage][k]), step > first_step || k > 0);
    }
    ptx::WgmmaCommit();
    ptx::WgmmaWait<1>();  // for the step before
    if (before >= 0) release(before);
    before = at.stage;
  }
  ptx::WgmmaWait<0>(sums);
  release(before);
}

template <typename Tile>
SIMT_DEVICE void Consume(const Call& call, typename Tile::Shared& shared) {
  Position<Tile::kStages> at;
  const int count = WorkCount(call.cut);
  for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x)) {
    const Work work = FindWork<Tile>(call, i);
    if (!work.exists) continue;
    float totals[Tile::kValues] = {};
    float sums[Tile::kValues] = {};
    for (int step = work.first_step; step < work.end_step; step += call.cut.segment_steps) {
      const int end = step + call.cut.segment_steps;
      SumSegment<Tile>(shared, step, end < work.end_step ? end : work.end_step, at, sums);
#pragma unroll
      for (int v = 0; v < Tile::kValues; ++v) totals[v] += sums[v];
    }
    if (call.cut.split && !GatherSegments<Tile>(call, work, &shared.last[Consumer()], totals)) {
      continue;
    }
    Store<Tile>(call, work, totals);
  }
}

// All threads of the block, or of the cluster.
template <typename Tile>
SIMT_DEVICE void Meet() {
  if constexpr (Tile::kBlocks == 1) {
    __syncthreads();
  } else {
    __syncwarp();  // the instructions are for whole warps
    ptx::ClusterArrive();
    ptx::ClusterWait();
  }
}

// Before a block ends: the others have used its barriers for the last time.
template <typename Tile>
SIMT_DEVICE void End() {
  if constexpr (Tile::kBlocks > 1) Meet<Tile>();
}

#endif

template <typename Tile>
SIMT_KERNEL(kThreads, 1)
GemmSm90Kernel(const SIMT_GRID_CONSTANT Call call) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = simt::SharedMemory<typename Tile::Shared>();
  if (threadIdx.x == 0) {
    for (int s = 0; s < Tile::kStages; ++s) {
      ptx::MBarrierInit(&shared.full[s], 1 + Tile::kCopyingWarps);
      ptx::MBarrierInit(&shared.empty[s], kConsumerWarps * Tile::kBlocks);
    }
    ptx::FenceBarrierInit();
  }
  ptx::GridDependencyWait();
  Meet<Tile>();
  if (Consumer() < kConsumers) {
    ptx::TakeRegisters<Tile::kConsumerRegisters>();
    Consume<Tile>(call, shared);
    End<Tile>();
    return;
  }
  ptx::GiveBackRegisters<Tile::kProducerRegisters>();
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarpSize - kConsumerWarps;
  if (Tile::kCopied || warp == 0) Produce<Tile>(call, shared);
  End<Tile>();
#endif
}

// For many rows, loaded by TMA.
template <int kBlocks>
using LargeTile = Tile<false, kSm90WeightRows, false, kBlocks>;

template <typename Tile>
Cut MakeCut(const GemmProblem& problem, int multiprocessors) {
  Cut cut;
  cut.row_tiles = static_cast<int32_t>(
      problem.offsets == nullptr ? CeilDiv(problem.rows, Tile::kRows)
                                 : MaxGroupTiles(problem.rows, problem.num_groups, 1, Tile::kRows));
  cut.row_tiles = CeilDiv(cut.row_tiles, Tile::kBlocks) * Tile::kBlocks;
  cut.column_tiles = CeilDiv(problem.n, Tile::kColumns);
  cut.segment_steps = SegmentSteps(problem.n, problem.k, kStepK);
  cut.segments = CeilDiv(CeilDiv(problem.k, kStepK), cut.segment_steps);
  const int tiles = cut.row_tiles * cut.column_tiles;
  cut.split =
      cut.segments > 1 && tiles < multiprocessors && tiles * kConsumers <= Workspace::kNumCounters;
  cut.wide_x = reinterpret_cast<uintptr_t>(problem.x) % kChunkBytes == 0 &&
               problem.x_stride * sizeof(Bf16) % kChunkBytes == 0;
  const size_t pair = 2 * (problem.out_bf16 ? sizeof(Bf16) : sizeof(float));
  cut.wide_pairs =
      reinterpret_cast<uintptr_t>(problem.out) % pair == 0 && problem.out_stride % 2 == 0;
  return cut;
}

template <typename Tile>
size_t WorkspaceBytes(const Cut& cut) {
  if (!cut.split) return 0;
  return static_cast<size_t>(cut.row_tiles) * cut.column_tiles * cut.segments * Tile::kRows *
         Tile::kColumns * sizeof(float);
}

template <typename Tile>
int Grid(const Cut& cut, int multiprocessors) {
  const int work = WorkCount(cut);
  return work < multiprocessors ? work : multiprocessors / Tile::kBlocks * Tile::kBlocks;
}

// Whether blocks in pairs, of which the last one may lack a row tile, take no more turns than
// blocks by themselves. Groups are not paired: the half pairs at their ends would cost more than
// the weights that whole ones share.
bool PairsPay(const GemmProblem& problem, int multiprocessors) {
  if (problem.offsets != nullptr || multiprocessors < 2) return false;
  const auto turns = [&](auto tile) {
    using Tile = decltype(tile);
    const Cut cut = MakeCut<Tile>(problem, multiprocessors);
    return CeilDiv(WorkCount(cut), Grid<Tile>(cut, multiprocessors));
  };
  return problem.rows > kSm90WeightRows && turns(LargeTile<2>()) <= turns(LargeTile<1>());
}

// Calls body(Tile()) with the tile for the problem.
template <bool kCopied, typename Body>
auto WithTile(const GemmProblem& problem, int multiprocessors, const Body& body) {
  switch (Sm90TileRows(problem)) {
    case 8:
      return body(Tile<true, 8, kCopied>());
    case 16:
      return body(Tile<true, 16, kCopied>());
    case 32:
      return body(Tile<true, 32, kCopied>());
    case 64:
      return body(Tile<true, 64, kCopied>());
    default:
      if constexpr (!kCopied) {
        if (PairsPay(problem, multiprocessors)) return body(LargeTile<2>());
      }
      return body(Tile<false, kSm90WeightRows, kCopied>());
  }
}

template <typename Tile>
cudaError_t Launch(cudaStream_t stream, const Call& call, int multiprocessors) {
  const simt::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(Grid<Tile>(call.cut, multiprocessors))),
      .block = dim3(kThreads),
      .shared_bytes = sizeof(typename Tile::Shared),
      .stream = stream,
      .cluster = dim3(Tile::kBlocks),
      .dependent = true};
  return SIMT_LAUNCH(shape, GemmSm90Kernel<Tile>, call);
}

template <bool kCopied>
cudaError_t LaunchTiled(cudaStream_t stream, const GemmProblem& problem, const GemmSm90Maps& maps,
                        int multiprocessors) {
  return WithTile<kCopied>(problem, multiprocessors, [&](auto tile) {
    using Tile = decltype(tile);
    Call call{.problem = problem, .maps = maps, .cut = MakeCut<Tile>(problem, multiprocessors)};
    if (WorkspaceBytes<Tile>(call.cut) > problem.workspace.bytes) call.cut.split = false;
    return Launch<Tile>(stream, call, multiprocessors);
  });
}

}  // namespace

size_t GemmSm90WorkspaceBytes(const GemmProblem& problem, int multiprocessors) {
  if (problem.rows == 0) return 0;
  return WithTile<false>(problem, multiprocessors, [&](auto tile) {
    using Tile = decltype(tile);
    return WorkspaceBytes<Tile>(MakeCut<Tile>(problem, multiprocessors));
  });
}

cudaError_t LaunchGemmSm90(cudaStream_t stream, const GemmProblem& problem,
                           const GemmSm90Maps& maps, int multiprocessors) {
  if (problem.rows == 0) return cudaSuccess;
  return Sm90LoadsX(problem) ? LaunchTiled<false>(stream, problem, maps, multiprocessors)
                             : LaunchTiled<true>(stream, problem, maps, multiprocessors);
}

}  // namespace tessera::cuda
