// Matrix products on tensor cores by mma.sync (sm_80 and later), and in fp32 by FMA.
//
// Floor: a product moves n k weights once, rows k of x and rows n of out, and takes 2 rows n k
// FLOP. With bfloat16 and few rows it is bound by the weights: 2 n k bytes. A100: 1.55 TB/s and 312
// TFLOP/s meet at about 200 rows; H100: 3.35 TB/s and 990 TFLOP/s at about 300.
//
// What the kernel moves: the weights once per row tile (blocks that differ in the row tile only run
// side by side, so that all but the first read L2), x once per column tile (from L2), and with
// split K at most 8 rows n segments bytes of partial sums, written and read within L2.
//
// Tiles: K in steps of 128 bytes per row, so that a row of a step is one line. 16 x 128 for few
// rows: 18 KiB per step, four stages: 55 KiB in flight per block, of which 89 % are weights. 64 x
// 64 for more: 32 FLOP per byte read from L2, 32 x 32 per warp: 16 FLOP per byte read from shared
// memory, which is what an A100 needs to keep its tensor cores busy; three stages, 48 KiB.
//
// Few tiles would leave most multiprocessors idle, so then each K segment of a tile is a block of
// its own (split K), and the last one of a tile adds the segments in order. Otherwise one block
// goes through the segments; it too sums each from zero, so both give the same bits.
#include "kernels/cuda/kernels/gemm.h"
#include "kernels/cuda/kernels/segments.h"
#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {
namespace {

namespace ptx = simt::ptx;
using simt::Bf16;
using simt::CeilDiv;

constexpr int kThreads = 128;
constexpr int kStepBytes = 128;  // of a row, per step
constexpr int kStepChunks = kStepBytes / kChunkBytes;
constexpr int kLoadRows = kThreads / kStepChunks;  // rows of a tile that all threads load at a time
constexpr int kFragmentRows = 16;                  // of the tensor cores' result
constexpr int kFragmentColumns = 8;
constexpr int kWarpColumns = 32;
constexpr int kFragmentsN = kWarpColumns / kFragmentColumns;

// How a block multiplies: T is the type of the operands, four warps of kWarpRows x 32 each.
template <typename T, int kTileRows, int kTileColumns, int kTileStages, int kTileBlocks>
struct Tile {
  using Element = T;
  static constexpr int kRows = kTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kStages = kTileStages;
  static constexpr int kBlocksPerMultiprocessor = kTileBlocks;
  static constexpr int kStepK = kStepBytes / static_cast<int>(sizeof(T));
  static constexpr int kPerChunk = kChunkBytes / static_cast<int>(sizeof(T));
  static constexpr int kWarpsN = kColumns / kWarpColumns;
  static constexpr int kWarpRows = kRows * kWarpsN * simt::kWarpSize / kThreads;
  static constexpr int kFragmentsM = kWarpRows / kFragmentRows;
  static constexpr int kXLoads = kRows / kLoadRows;
  static constexpr int kWeightLoads = kColumns / kLoadRows;

  struct Shared {
    alignas(128) T x[kStages][kRows * kStepK];
    alignas(128) T weight[kStages][kColumns * kStepK];
    uint32_t last;  // of ArrivesLast
  };
};
template <typename T>
using FewRows = Tile<T, 16, 128, 4, 3>;
template <typename T>
using ManyRows = Tile<T, 64, 64, 3, sizeof(T) == 2 ? 4 : 3>;

// A thread's part of a warp's results: value [i][j][2 half + c] belongs to row 16 i + 8 half +
// lane / 4 and column 8 j + lane % 4 * 2 + c, as the tensor cores have it.
template <typename Tile>
using Sums = float[Tile::kFragmentsM][kFragmentsN][4];

// How a launch cuts the problem; the same for all of its blocks.
struct Cut {
  int32_t segment_steps = 0;  // steps of K per segment
  int32_t segments = 1;
  bool split = false;       // a block per segment
  bool wide_x = false;      // rows of x lie at 16-byte boundaries
  bool wide_pairs = false;  // so do pairs of results, at boundaries of a pair
};

// What a block multiplies.
template <typename T>
struct Operands {
  int row0 = 0;  // of out
  int row_end = 0;
  int column0 = 0;
  const T* weight = nullptr;  // null: nothing
};

template <typename Tile>
SIMT_DEVICE Operands<typename Tile::Element> FindOperands(const GemmProblem& problem) {
  using T = typename Tile::Element;
  const int tile = static_cast<int>(blockIdx.x);
  const int column0 = static_cast<int>(blockIdx.y) * Tile::kColumns;
  if (problem.offsets == nullptr) {
    return {tile * Tile::kRows, problem.rows, column0, static_cast<const T*>(problem.weight)};
  }
  const GroupTile found = FindGroupTile(problem.offsets, problem.num_groups, 1, Tile::kRows, tile);
  if (found.group < 0) return {};
  return {found.begin + found.index * Tile::kRows, found.end, column0,
          static_cast<const T*>(problem.weights[found.group])};
}

// Copies the steps of both operands to shared memory: each thread the same chunk of every
// kLoadRows-th row. Rows and columns that do not exist become zeros.
template <typename Tile>
class Loader {
 public:
  using T = typename Tile::Element;

  SIMT_DEVICE Loader(const GemmProblem& problem, const Operands<T>& operands)
      : k_(problem.k),
        weight_rows_(problem.n - operands.column0 - LoadRow()),
        weight_end_(static_cast<int>(problem.weight_stride)),
        weight_stride_(problem.weight_stride),
        weight_(operands.weight) {
    if (weight_rows_ > 0) weight_ += (operands.column0 + LoadRow()) * weight_stride_;
#pragma unroll
    for (int i = 0; i < Tile::kXLoads; ++i) {
      const int row = operands.row0 + i * kLoadRows + LoadRow();
      int from = -1;
      if (row < operands.row_end)
        from = problem.row_index == nullptr ? row : problem.row_index[row];
      x_[i] = from < 0 ? nullptr : static_cast<const T*>(problem.x) + from * problem.x_stride;
    }
  }

  SIMT_DEVICE void Load(typename Tile::Shared& shared, int step, int stage, bool wide_x) const {
    const int chunk = static_cast<int>(threadIdx.x) % kStepChunks;
    const int k = (step * kStepChunks + chunk) * Tile::kPerChunk;
#pragma unroll
    for (int i = 0; i < Tile::kXLoads; ++i) {
      T* to = &shared.x[stage][ElementAt(i * kLoadRows + LoadRow(), chunk)];
      if (wide_x) {
        const int left = x_[i] == nullptr ? 0 : k_ - k;
        Copy(to, weight_, x_[i] + k, left);
      } else {
        CopyElements(to, x_[i], k);
      }
    }
#pragma unroll
    for (int i = 0; i < Tile::kWeightLoads; ++i) {
      const int left = i * kLoadRows < weight_rows_ ? weight_end_ - k : 0;
      Copy(&shared.weight[stage][ElementAt(i * kLoadRows + LoadRow(), chunk)], weight_,
           weight_ + i * kLoadRows * weight_stride_ + k, left);
    }
  }

  // Of the first of the kPerChunk elements of a chunk in a tile.
  SIMT_DEVICE static int ElementAt(int row, int chunk) {
    return SwizzledChunk<kStepChunks>(row, chunk) * Tile::kPerChunk;
  }

 private:
  SIMT_DEVICE static int LoadRow() { return static_cast<int>(threadIdx.x) / kStepChunks; }

  // The `left` elements at `from` that exist, at most a chunk, and zeros. Without any, the address
  // is that of something that exists.
  SIMT_DEVICE static void Copy(T* to, const T* something, const T* from, int left) {
    const int count = left < 0 ? 0 : left < Tile::kPerChunk ? left : Tile::kPerChunk;
    ptx::CpAsync16(to, count > 0 ? from : something,
                   static_cast<uint32_t>(count * static_cast<int>(sizeof(T))));
  }
  SIMT_DEVICE void CopyElements(T* to, const T* row, int k) const {
#pragma unroll
    for (int e = 0; e < Tile::kPerChunk; ++e) {
      to[e] = row != nullptr && k + e < k_ ? row[k + e] : T{};
    }
  }

  const int k_;
  const int weight_rows_;  // from the thread's first one on
  const int weight_end_;
  const int64_t weight_stride_;
  const T* weight_;
  const T* x_[Tile::kXLoads];  // rows; null: not there
};

template <typename Tile>
SIMT_DEVICE int WarpRow() {
  return static_cast<int>(threadIdx.x) / simt::kWarpSize / Tile::kWarpsN * Tile::kWarpRows;
}
template <typename Tile>
SIMT_DEVICE int WarpColumn() {
  return static_cast<int>(threadIdx.x) / simt::kWarpSize % Tile::kWarpsN * kWarpColumns;
}

// sums += the product of one step, k ascending.
template <typename Tile>
SIMT_DEVICE void MultiplyStep(const Bf16* x, const Bf16* weight, Sums<Tile>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
#pragma unroll
  for (int kk = 0; kk < Tile::kStepK / 16; ++kk) {
    uint32_t a[Tile::kFragmentsM][4];
    uint32_t b[kFragmentsN / 2][4];
#pragma unroll
    for (int i = 0; i < Tile::kFragmentsM; ++i) {
      const int row = WarpRow<Tile>() + i * kFragmentRows + lane % 16;
      ptx::LdMatrixX4(a[i], &x[Loader<Tile>::ElementAt(row, kk * 2 + lane / 16)]);
    }
#pragma unroll
    for (int j = 0; j < kFragmentsN / 2; ++j) {
      const int column = WarpColumn<Tile>() + j * 16 + lane % 8 + lane / 16 * 8;
      ptx::LdMatrixX4(b[j], &weight[Loader<Tile>::ElementAt(column, kk * 2 + lane / 8 % 2)]);
    }
#pragma unroll
    for (int i = 0; i < Tile::kFragmentsM; ++i) {
#pragma unroll
      for (int j = 0; j < kFragmentsN; ++j) {
        ptx::MmaBf16(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

template <typename Tile>
SIMT_DEVICE void MultiplyStep(const float* x, const float* weight, Sums<Tile>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
  for (int chunk = 0; chunk < kStepChunks; ++chunk) {
    float b[kFragmentsN * 2][4];
#pragma unroll
    for (int j = 0; j < kFragmentsN * 2; ++j) {
      const int column = WarpColumn<Tile>() + j / 2 * kFragmentColumns + lane % 4 * 2 + j % 2;
      LoadFour(b[j], &weight[Loader<Tile>::ElementAt(column, chunk)]);
    }
#pragma unroll
    for (int i = 0; i < Tile::kFragmentsM * 2; ++i) {
      const int row = WarpRow<Tile>() + i * 8 + lane / 4;
      float a[4];
      LoadFour(a, &x[Loader<Tile>::ElementAt(row, chunk)]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int j = 0; j < kFragmentsN * 2; ++j) {
          float& sum = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
          sum = simt::Fma(a[e], b[j][e], sum);
        }
      }
    }
  }
}

// Calls body(value pair, i, half, j) for all of a thread's pairs of neighbouring columns.
template <typename Tile, typename Body>
SIMT_DEVICE void ForPairs(Sums<Tile>& sums, const Body& body) {
#pragma unroll
  for (int i = 0; i < Tile::kFragmentsM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < kFragmentsN; ++j) {
        body(sums[i][j][half * 2], sums[i][j][half * 2 + 1], (i * 2 + half) * kFragmentsN + j);
      }
    }
  }
}
// Of pair `pair` of this thread, in the tile.
template <typename Tile>
SIMT_DEVICE int PairRow(int pair) {
  return WarpRow<Tile>() + pair / kFragmentsN * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
}
template <typename Tile>
SIMT_DEVICE int PairColumn(int pair) {
  return WarpColumn<Tile>() + pair % kFragmentsN * kFragmentColumns +
         static_cast<int>(threadIdx.x) % 4 * 2;
}

// totals = the sum of segments [first, first + count) of K in order, each summed from zero.
template <typename Tile>
SIMT_DEVICE void SumSegments(const Loader<Tile>& loader, typename Tile::Shared& shared,
                             const Cut& cut, int first_step, int end_step, Sums<Tile>& totals) {
  auto load = [&](int step, int stage) {
    if (step < end_step) loader.Load(shared, step, stage, cut.wide_x);
    ptx::CpAsyncCommit();
  };
#pragma unroll
  for (int s = 0; s < Tile::kStages - 1; ++s) load(first_step + s, s);
  Sums<Tile> sums = {};
  int stage = 0;
  int left = cut.segment_steps;  // steps of the segment
  for (int step = first_step; step < end_step; ++step) {
    ptx::CpAsyncWait<Tile::kStages - 2>();
    __syncthreads();  // the step is there for all, and all are done with the one before it
    const int free = stage == 0 ? Tile::kStages - 1 : stage - 1;
    load(step + Tile::kStages - 1, free);
    MultiplyStep<Tile>(shared.x[stage], shared.weight[stage], sums);
    stage = stage == Tile::kStages - 1 ? 0 : stage + 1;
    if (--left > 0 && step < end_step - 1) continue;
    left = cut.segment_steps;
#pragma unroll
    for (int i = 0; i < Tile::kFragmentsM; ++i) {
#pragma unroll
      for (int j = 0; j < kFragmentsN; ++j) {
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          totals[i][j][v] += sums[i][j][v];
          sums[i][j][v] = 0.0F;
        }
      }
    }
  }
  ptx::CpAsyncWait<0>();
}

// Exchanges the sums of the segments of a tile: true in the one block that then holds all.
template <typename Tile>
SIMT_DEVICE bool GatherSegments(const GemmProblem& problem, const Cut& cut, int rows,
                                uint32_t* last, Sums<Tile>& sums) {
  constexpr int kPairs = Tile::kFragmentsM * 2 * kFragmentsN;
  const int thread = static_cast<int>(threadIdx.x);
  const int tile = static_cast<int>(blockIdx.x * gridDim.y + blockIdx.y);
  float* partials = static_cast<float*>(problem.workspace.data) +
                    (int64_t{tile} * cut.segments * kPairs * kThreads + thread) * 2;
  constexpr int64_t kSegmentFloats = int64_t{2} * kPairs * kThreads;
  float* own = partials + blockIdx.z * kSegmentFloats;
  ForPairs<Tile>(sums, [&](float& low, float& high, int pair) {
    if (PairRow<Tile>(pair) < rows) StoreTwo(own + pair * kThreads * 2, low, high);
    low = 0.0F;
    high = 0.0F;
  });
  if (!ArrivesLast(&problem.workspace.counters[tile], cut.segments, last)) return false;
  for (int segment = 0; segment < cut.segments; ++segment) {
    const float* from = partials + segment * kSegmentFloats;
    ForPairs<Tile>(sums, [&](float& low, float& high, int pair) {
      if (PairRow<Tile>(pair) >= rows) return;
      float more_low;
      float more_high;
      LoadTwo(more_low, more_high, from + pair * kThreads * 2);
      low += more_low;
      high += more_high;
    });
  }
  return true;
}

SIMT_DEVICE void StorePair(const GemmProblem& problem, const Cut& cut, int row, int column,
                           float low, float high) {
  if (column >= problem.n) return;
  const bool both = column + 1 < problem.n;
  if (problem.bias != nullptr) {
    low += problem.bias[column];
    if (both) high += problem.bias[column + 1];
  }
  const int64_t at = row * problem.out_stride + column;
  if (problem.out_bf16) {
    Bf16* to = static_cast<Bf16*>(problem.out) + at;
    if (both && cut.wide_pairs) {
      *reinterpret_cast<uint32_t*>(to) = simt::PackBf16(low, high);
      return;
    }
    to[0] = simt::ToBf16(low);
    if (both) to[1] = simt::ToBf16(high);
    return;
  }
  float* to = static_cast<float*>(problem.out) + at;
  if (both && cut.wide_pairs) {
    StoreTwo(to, low, high);
    return;
  }
  to[0] = low;
  if (both) to[1] = high;
}

template <typename Tile>
SIMT_KERNEL(kThreads, Tile::kBlocksPerMultiprocessor)
GemmKernel(const SIMT_GRID_CONSTANT GemmProblem problem, Cut cut) {
  auto& shared = simt::SharedMemory<typename Tile::Shared>();
  ptx::GridDependencyWait();
  const auto operands = FindOperands<Tile>(problem);
  if (operands.weight == nullptr) return;
  const int rows = operands.row_end - operands.row0;

  const int steps = CeilDiv(problem.k, Tile::kStepK);
  const int first_step = static_cast<int>(blockIdx.z) * cut.segment_steps;
  const int last_step = first_step + cut.segment_steps;
  const int end_step = cut.split && last_step < steps ? last_step : steps;
  Sums<Tile> sums = {};
  SumSegments<Tile>({problem, operands}, shared, cut, first_step, end_step, sums);
  ptx::GridDependencyLaunch();
  if (cut.split && !GatherSegments<Tile>(problem, cut, rows, &shared.last, sums)) return;
  ForPairs<Tile>(sums, [&](const float& low, const float& high, int pair) {
    const int row = PairRow<Tile>(pair);
    if (row >= rows) return;
    StorePair(problem, cut, operands.row0 + row, operands.column0 + PairColumn<Tile>(pair), low,
              high);
  });
}

struct Plan {
  Cut cut;
  dim3 grid;
  size_t workspace_bytes = 0;
};

template <typename Tile>
Plan MakePlan(const GemmProblem& problem) {
  using T = typename Tile::Element;
  // More tiles than this fill a device by themselves.
  constexpr int kFewTiles = 128;
  static_assert(kFewTiles <= Workspace::kNumCounters);
  Plan plan;
  const int64_t tile_rows = problem.offsets == nullptr
                                ? CeilDiv(problem.rows, Tile::kRows)
                                : MaxGroupTiles(problem.rows, problem.num_groups, 1, Tile::kRows);
  const int tile_columns = CeilDiv(problem.n, Tile::kColumns);
  Cut& cut = plan.cut;
  cut.segment_steps = SegmentSteps(problem.n, problem.k, Tile::kStepK);
  cut.segments = CeilDiv(CeilDiv(problem.k, Tile::kStepK), cut.segment_steps);
  cut.split = cut.segments > 1 && tile_rows * tile_columns < kFewTiles;
  cut.wide_x = reinterpret_cast<uintptr_t>(problem.x) % kChunkBytes == 0 &&
               problem.x_stride % Tile::kPerChunk == 0;
  const size_t pair = 2 * (problem.out_bf16 ? sizeof(Bf16) : sizeof(float));
  cut.wide_pairs =
      reinterpret_cast<uintptr_t>(problem.out) % pair == 0 && problem.out_stride % 2 == 0;
  if (cut.split) {
    plan.workspace_bytes = static_cast<size_t>(tile_rows) * tile_columns * cut.segments *
                           Tile::kRows * Tile::kColumns * sizeof(float);
  }
  plan.grid = dim3(static_cast<unsigned>(tile_rows), static_cast<unsigned>(tile_columns), 1);
  static_assert(sizeof(T) <= sizeof(float));
  return plan;
}

template <typename Tile>
cudaError_t Launch(cudaStream_t stream, const GemmProblem& problem) {
  Plan plan = MakePlan<Tile>(problem);
  if (plan.workspace_bytes > problem.workspace.bytes) plan.cut.split = false;
  if (plan.cut.split) plan.grid.z = static_cast<unsigned>(plan.cut.segments);
  const simt::LaunchShape shape{.grid = plan.grid,
                                .block = dim3(kThreads),
                                .shared_bytes = sizeof(typename Tile::Shared),
                                .stream = stream,
                                .dependent = true};
  return SIMT_LAUNCH(shape, GemmKernel<Tile>, problem, plan.cut);
}

// Whether tiles of 16 rows lose nothing: the rows, or those of an average group, fit one.
bool HasFewRows(const GemmProblem& problem) {
  const int64_t groups = problem.offsets == nullptr ? 1 : problem.num_groups;
  return problem.rows <= groups * FewRows<Bf16>::kRows;
}

}  // namespace

size_t GemmWorkspaceBytes(const GemmProblem& problem) {
  if (problem.rows == 0) return 0;
  if (HasFewRows(problem)) {
    return problem.bf16 ? MakePlan<FewRows<Bf16>>(problem).workspace_bytes
                        : MakePlan<FewRows<float>>(problem).workspace_bytes;
  }
  return problem.bf16 ? MakePlan<ManyRows<Bf16>>(problem).workspace_bytes
                      : MakePlan<ManyRows<float>>(problem).workspace_bytes;
}

cudaError_t LaunchGemm(cudaStream_t stream, const GemmProblem& problem) {
  if (problem.rows == 0) return cudaSuccess;
  if (HasFewRows(problem)) {
    return problem.bf16 ? Launch<FewRows<Bf16>>(stream, problem)
                        : Launch<FewRows<float>>(stream, problem);
  }
  return problem.bf16 ? Launch<ManyRows<Bf16>>(stream, problem)
                      : Launch<ManyRows<float>>(stream, problem);
}

}  // namespace tessera::cuda
